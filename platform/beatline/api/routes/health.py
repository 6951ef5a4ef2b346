"""Whether this process lives, and whether it can do its duty; open to all, and silent on where anything is."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from redis import RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from beatline.api.context import Context, In
from beatline.api.models import Health
from beatline.api.problems import problem, schema_words
from beatline.errors import SchemaError, ServiceError
from beatline.installation import connect_redis
from beatline.ledger.database import check_schema

WELL: Final = "ok"
router: Final = APIRouter(tags=["health"])


@router.get("/healthz", summary="Whether the process lives")
async def live() -> Health:
    """Asks nobody: a server that is away is no reason to restart this process."""
    return Health(status=WELL)


@router.get("/readyz", summary="Whether Redis and PostgreSQL answer and the tables are right", response_model=Health)
def ready(context: In) -> Health | JSONResponse:
    """503 names the one that does not."""
    checks = {"redis": _redis(context), "postgres": _postgres(context)}
    wrong = [said for said in checks.values() if said != WELL]
    if wrong:
        return problem(503, " ".join(wrong), checks=checks)
    return Health(status="ready")


def _redis(context: Context) -> str:
    client = connect_redis(context.installation.settings.redis_url, retry=Retry(NoBackoff(), 0))
    try:
        client.ping()
    except (RedisError, OSError):
        return "Redis does not answer."
    finally:
        client.close()
    return WELL


def _postgres(context: Context) -> str:
    try:
        check_schema(context.installation.settings)
    except SchemaError as exc:
        return schema_words(exc)
    except ServiceError:
        return "PostgreSQL does not answer."
    return WELL
