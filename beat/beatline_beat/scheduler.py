"""The scheduler of `celery -A beatline beat`: RedBeat's, with PostgreSQL as the truth and a leader that steps down."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final

from celery.signals import beat_init
from kombu.exceptions import KombuError
from redis import RedisError
from sqlalchemy.exc import SQLAlchemyError

from beatline.clock import monotonic_s
from beatline.errors import AttachError, BeatlineError, ServiceError
from beatline.installation import Installation, RedisClient, connect_redis
from beatline.ledger.database import check_schema, guarded
from beatline.logs import get_logger
from beatline.pulse import Pulse
from beatline.secrets import mask_urls
from beatline_beat.adopt import adopt_statics
from beatline_beat.entries import BeatlineEntry, Entries
from beatline_beat.firing import Firing
from beatline_beat.leader import Leadership, State
from beatline_beat.seams import RedBeatScheduler, acquire_distributed_beat_lock
from beatline_beat.sync import Specs, Sync

log = get_logger(__name__)

_SAY_AGAIN_S: Final = 30.0


class BeatlineScheduler(RedBeatScheduler):
    """Decides from PostgreSQL what each slot becomes, and fires it. Whatever fails, it says so, waits, and goes on."""

    Entry = BeatlineEntry

    def __init__(
        self, app: Any, lock_key: str | None = None, lock_timeout: float | None = None, **options: Any
    ) -> None:
        installation: Installation | None = app.conf.get("beatline")
        if installation is None:
            raise AttachError("This Celery app is not a Beatline app: call beatline.attach(app) where it is made.")
        self.installation = installation
        settings = installation.settings
        super().__init__(app, lock_key=lock_key, lock_timeout=lock_timeout or settings.beat_lock_s, **options)
        # The lock is renewed between ticks: a longer sleep would lose it.
        self.max_interval = min(self.max_interval, settings.beat_interval_s, self.lock_timeout / 5)
        # RedBeat's own receiver waits for the lock before the first tick, and a lost lock ends the process.
        beat_init.disconnect(acquire_distributed_beat_lock)
        self._outage = _Outage()
        self._pulse = Pulse(settings.health_folder, "beat")
        self._led = 0

    def setup_schedule(self) -> None:
        """Nothing: entries are written only once this Beat leads."""

    @cached_property
    def redis(self) -> RedisClient:
        """One client for entries and lock; bytes that are no text pass through it unharmed."""
        return connect_redis(self.installation.settings.redis_url, encoding_errors="surrogateescape")

    @cached_property
    def leader(self) -> Leadership:
        """This Beat's claim to lead."""
        return Leadership(self.redis, self.installation.engine, self.lock_key, self.lock_timeout)

    @cached_property
    def entries(self) -> Entries:
        """RedBeat's entries."""
        return Entries(self.redis, self.app.redbeat_conf, self.leader.token)

    @cached_property
    def specs(self) -> Specs:
        """Specs of rows."""
        return Specs()

    @cached_property
    def projection(self) -> Sync:
        """Keeps entries in step with rows."""
        return Sync(self.installation.engine, self.entries, self.specs, self.app, self.leader.name)

    @cached_property
    def firing(self) -> Firing:
        """Fires what is due."""
        return Firing(self.installation, self.app, self.leader, self.entries, self.projection, self.specs)

    def tick(self, *_: Any, **__: Any) -> float:
        """Lead or follow for one turn; how long to sleep, in seconds. Raises nothing."""
        try:
            with guarded(self.installation.settings):
                wait_s = self._turn()
            self._outage.over()
            self._pulse.beat(self.leader.state)
        except (BeatlineError, RedisError, KombuError, SQLAlchemyError) as exc:
            self._outage.say(_sentence(exc, self.installation))
            wait_s = self.max_interval
        except Exception as exc:
            log.exception("beat: a turn failed; trying again", error=type(exc).__name__)
            wait_s = self.max_interval
        return float(wait_s)

    def _turn(self) -> float:
        if self.leader.step() is State.FOLLOWER:
            return float(self.max_interval)
        if self._led != self.leader.scribe.number:
            self._begin_to_lead()
        while self.projection.pull():
            if self.leader.step() is State.FOLLOWER:
                return 0.0
        return self.firing.turn(self.max_interval)

    def _begin_to_lead(self) -> None:
        number = self.leader.scribe.number
        check_schema(self.installation.settings)
        with self.installation.engine.begin() as conn:
            adopt_statics(conn, dict(self.app.conf.beat_schedule or {}))
        self.projection.forget()
        self._led = number

    def close(self) -> None:
        """Hand over at once: a stand-by leads within its next tick."""
        try:
            self.leader.close()
        except RedisError as exc:
            log.warning("beat: the lock could not be released; it ends by itself", error=_said(exc))
        super().close()


class _Outage:
    """Says that something does not answer: at once, then now and then, and when it is over."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._said = 0.0
        self._text = ""

    def say(self, text: str) -> None:
        now = monotonic_s()
        if self._since is None:
            self._since = now
        elif text == self._text and now - self._said < _SAY_AGAIN_S:
            return
        self._said, self._text = now, text
        log.error("beat: waiting", reason=text, for_s=round(now - self._since, 1))

    def over(self) -> None:
        if self._since is not None:
            log.info("beat: going on", after_s=round(monotonic_s() - self._since, 1))
            self._since = None


def _sentence(exc: Exception, installation: Installation) -> str:
    if isinstance(exc, ServiceError):
        return str(exc)
    if isinstance(exc, RedisError | KombuError):
        return f"Redis at {mask_urls(installation.settings.redis_url)} does not answer as it should: {_said(exc)}"
    return _said(exc)


def _said(exc: Exception) -> str:
    """The first line of an error, without SQL and parameters."""
    text = str(getattr(exc, "orig", None) or exc).strip()
    return text.splitlines()[0] if text else type(exc).__name__
