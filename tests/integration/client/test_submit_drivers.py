"""`submit` in a session of any driver: what it promises is kept by psycopg 3 and asyncpg as it is by psycopg2."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

import beatline
from beatline.client import accepting
from beatline.errors import ConflictError, ServiceError
from beatline.installation import Installation
from support.apps import open_app
from support.ledger import rows, waiting
from support.waiting import wait_until

if TYPE_CHECKING:
    from beatline.settings import Settings
    from support.serving import MakeSettings

ASYNCHRONOUS: Final = ("asyncpg", "psycopg")


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(task_modules=("support.run_tasks",))


@pytest.fixture(autouse=True)
def app(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(accepting, "_away_until", {})
    with open_app(installation.settings) as app:
        yield app


def over(driver: str, url: str) -> str:
    """The URL for a driver; its options are libpq's, which asyncpg has by other names."""
    return urlsplit(url)._replace(scheme=f"postgresql+{driver}", query="").geturl()


def in_async_session(driver: str, url: str, use: Callable[[AsyncSession], Awaitable[None]]) -> None:
    """Use a session in a loop of its own, and close all that it opened."""

    async def run() -> None:
        engine = create_async_engine(over(driver, url), poolclass=NullPool)
        try:
            async with AsyncSession(engine) as session:
                await use(session)
        finally:
            await engine.dispose()

    asyncio.run(run())


@contextmanager
def a_session(url: str) -> Generator[Session]:
    engine = create_engine(over("psycopg", url))
    try:
        with Session(engine) as session:
            yield session
    finally:
        engine.dispose()


def standing(installation: Installation) -> list[str]:
    with installation.engine.connect() as conn:
        return sorted(row["id"] for row in rows(conn, "runs"))


def queued(installation: Installation) -> list[str]:
    return sorted(one.run_id for one in waiting(installation))


def both(installation: Installation, *run_ids: str) -> None:
    """These runs stand, and these are published: by a thread, where a loop may not be held."""
    wait_until(lambda: queued(installation) == sorted(run_ids), 5, what="they are published")
    assert standing(installation) == sorted(run_ids)


@pytest.mark.parametrize("driver", ASYNCHRONOUS)
def test_an_async_commit_publishes_and_nothing_before_it(installation: Installation, driver: str) -> None:
    async def use(session: AsyncSession) -> None:
        submitted = await beatline.submit("test.add", (1, 2), run_id="r1", countdown=5, expires=3600, session=session)
        assert (submitted.run_id, submitted.state, submitted.new) == ("r1", "accepted", True)
        again = await beatline.submit("test.add", (1, 2), idempotency_key="once", run_id="r2", session=session)
        same = await beatline.submit("test.add", (1, 2), idempotency_key="once", session=session)
        assert (again.new, same.new, same.run_id) == (True, False, "r2")
        with pytest.raises(ConflictError, match="A run 'r1' was accepted before"):
            await beatline.submit("test.add", (3, 4), run_id="r1", session=session)
        await asyncio.sleep(0.2)
        assert queued(installation) == standing(installation) == []
        await session.commit()

    in_async_session(driver, installation.settings.database_url, use)
    both(installation, "r1", "r2")


@pytest.mark.parametrize("driver", ASYNCHRONOUS)
def test_an_async_rollback_takes_it_back(installation: Installation, driver: str) -> None:
    async def use(session: AsyncSession) -> None:
        await beatline.submit("test.add", (1, 2), run_id="rolled-back", session=session)
        await session.rollback()
        with suppress(RuntimeError):
            async with session.begin():
                await beatline.submit("test.add", (1, 2), run_id="failed", session=session)
                raise RuntimeError("the request failed")
        await beatline.submit("test.add", (1, 2), run_id="closed", session=session)
        await session.close()
        await beatline.submit("test.add", (1, 2), run_id="last", session=session)
        await session.commit()

    in_async_session(driver, installation.settings.database_url, use)
    both(installation, "last")


@pytest.mark.parametrize("driver", ASYNCHRONOUS)
def test_async_savepoints_take_their_runs_with_them(installation: Installation, driver: str) -> None:
    async def use(session: AsyncSession) -> None:
        await beatline.submit("test.add", (1, 2), run_id="outer", session=session)
        savepoint = await session.begin_nested()
        await beatline.submit("test.add", (1, 2), run_id="back", session=session)
        await savepoint.rollback()
        async with session.begin_nested():
            await beatline.submit("test.add", (1, 2), run_id="released", session=session)
        with suppress(RuntimeError):
            async with session.begin_nested():
                async with session.begin_nested():
                    await beatline.submit("test.add", (1, 2), run_id="released-within-back", session=session)
                raise RuntimeError("taken back")
        await session.commit()

    in_async_session(driver, installation.settings.database_url, use)
    both(installation, "outer", "released")


@pytest.mark.parametrize("driver", ASYNCHRONOUS)
def test_an_async_session_of_another_database_is_refused(
    installation: Installation, empty_database: str, driver: str
) -> None:
    async def use(session: AsyncSession) -> None:
        for _ in range(2):
            with pytest.raises(ServiceError, match=r"is not that of Beatline.*nothing was written"):
                await beatline.submit("test.add", (1, 2), session=session)
        await session.commit()

    in_async_session(driver, empty_database, use)
    both(installation)


@pytest.mark.parametrize("driver", ASYNCHRONOUS)
def test_a_scoped_async_session_will_do(installation: Installation, driver: str) -> None:
    async def run() -> None:
        engine = create_async_engine(over(driver, installation.settings.database_url), poolclass=NullPool)
        scoped = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)
        try:
            await beatline.submit("test.add", (1, 2), run_id="r1", session=scoped)
            await scoped.commit()
        finally:
            await scoped.remove()
            await engine.dispose()

    asyncio.run(run())
    both(installation, "r1")


def test_a_session_over_psycopg_3_keeps_what_it_promises(installation: Installation) -> None:
    with a_session(installation.settings.database_url) as session:
        beatline.submit("test.add", (1, 2), run_id="rolled-back", session=session)
        session.rollback()
        beatline.submit("test.add", (1, 2), run_id="outer", session=session)
        with session.begin_nested() as savepoint:
            beatline.submit("test.add", (1, 2), run_id="back", session=session)
            savepoint.rollback()
        with session.begin_nested():
            beatline.submit("test.add", (1, 2), run_id="released", idempotency_key="once", session=session)
        assert not beatline.submit("test.add", (1, 2), idempotency_key="once", session=session).new
        assert queued(installation) == standing(installation) == []
        session.commit()
        assert queued(installation) == ["outer", "released"], "before the commit returns"
    both(installation, "outer", "released")


def test_a_session_over_psycopg_3_of_another_database_is_refused(
    installation: Installation, empty_database: str
) -> None:
    with a_session(empty_database) as session, pytest.raises(ServiceError, match="nothing was written"):
        beatline.submit("test.add", (1, 2), session=session)
    both(installation)
