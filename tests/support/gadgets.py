"""A family of the tests' own: a kind of definition with everything a model can have."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from beatline.definitions import Definition, Finding, store
from beatline.families import Kind

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from beatline.installation import Installation


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Colour(StrEnum):
    """An enumeration."""

    RED = "red"
    BLUE = "blue"


class Token(_Strict):
    """A member of a union, with a secret."""

    type: Literal["token"] = "token"  # the name of a type
    token: SecretStr


class Login(_Strict):
    """Another member, with another secret."""

    type: Literal["login"] = "login"
    user: str
    password: SecretStr


class Part(_Strict):
    """Something of which there are many."""

    name: str
    pin: SecretStr | None = None


class Gadget(_Strict):
    """A spec."""

    url: str = Field(description="where it is")
    size: int = Field(default=1, ge=1)
    ratio: float | None = None
    colour: Colour = Colour.RED
    on: bool = True
    tags: tuple[str, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)
    extra: dict[str, Any] = Field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    auth: Annotated[Token | Login, Field(discriminator="type")] | None = None
    key: SecretStr | None = None


def poke(
    installation: Installation,
    definition: Definition,
    *,
    where: Annotated[str, "which side"],
    times: Annotated[int, "how often"] = 1,
    out: Path = Path("nowhere"),
    softly: bool = False,
) -> Finding:
    """Poke one of them.

    More than a line.
    """
    details = {"name": definition.name, "where": where, "times": times, "out": str(out), "softly": softly}
    return Finding(ok=times < 10, text=f"Poked {definition.name}.", details=details)


def count_all(installation: Installation, *, colour: str | None = None) -> Finding:
    """Count them."""
    with installation.engine.connect() as conn:
        found = store.list_definitions(conn, "gadget")
    rows = tuple({"name": one.name, "colour": one.spec.get("colour")} for one in found)
    return Finding(ok=True, text=f"{len(rows)}", rows=tuple(row for row in rows if colour in (None, row["colour"])))


def removed(conn: Connection, installation: Installation, definition: Definition) -> None:
    """Take along every other gadget whose label says that it hangs on this one."""
    for other in store.list_definitions(conn, "gadget"):
        if other.spec.get("labels", {}).get("on") == definition.name:
            store.remove(conn, "gadget", other.name, who="removed")


KIND: Final = Kind(
    name="gadget",
    plural="gadgets",
    model="support.gadgets:Gadget",
    task="gadget.use_gadget",
    actions={"poke_hard": "support.gadgets:poke"},
    fleet_actions={"count": "support.gadgets:count_all"},
    removed="support.gadgets:removed",
)
