"""A family of the tests' own: a kind of definition with everything a model can have."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from beatline.families import Kind


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


KIND: Final = Kind(name="gadget", plural="gadgets", model="support.gadgets:Gadget", task="gadget.use_gadget")
