"""A mailbox as a person declares it: where it is, how to log in, what is read and kept."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from beatline.errors import NameRefusedError
from beatline.names import check_task

_MIB: Final = 2**20
_STANDARD_PORTS: Final = {"tls": 993, "starttls": 143, "plain": 143}


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def _one_line(text: str) -> str:
    # What holds a line break would be a second command to the server.
    if not text or any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) < 0xE000 for char in text):
        raise ValueError("must be text on one line, without control characters")
    return text


def _one_line_secret(secret: SecretStr) -> SecretStr:
    _one_line(secret.get_secret_value())
    return secret


Line = Annotated[str, AfterValidator(_one_line)]
LineSecret = Annotated[SecretStr, AfterValidator(_one_line_secret)]


class OAuth(_Strict):
    """Log in with a token (XOAUTH2) that is got anew from `token_url`.

    With a refresh token on behalf of a person, without one as an application (client credentials).
    """

    token_url: str
    client_id: Line
    client_secret: LineSecret | None = None
    refresh_token: LineSecret | None = None
    scope: str = ""

    @field_validator("token_url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise ValueError("must be an address such as https://login.example.com/oauth2/token")
        return url

    @model_validator(mode="after")
    def _says_who(self) -> Self:
        if self.client_secret is None and self.refresh_token is None:
            raise ValueError("needs refresh_token (of a person) or client_secret (of an application), or both")
        return self


class Timeouts(_Strict):
    """Seconds: to connect, between two reads, for a whole poll."""

    connect_s: float = Field(default=5, gt=0, le=60)
    read_s: float = Field(default=30, gt=0, le=240)
    run_s: float = Field(default=240, ge=10, le=260)


class Mailbox(_Strict):
    """A mailbox that is polled over IMAP."""

    host: Line
    port: int | None = Field(default=None, ge=1, le=65_535, description="without it: 993 for tls, else 143")
    security: Literal["tls", "starttls", "plain"] = "tls"
    user: Line
    password: LineSecret | None = None
    oauth: OAuth | None = None
    folders: tuple[Annotated[Line, Field(max_length=250)], ...] = Field(default=("INBOX",), min_length=1, max_length=50)
    interval_s: float | None = Field(default=None, ge=1, le=86_400, description="without it: as sync_accounts says")
    priority: int | None = Field(default=None, ge=0, le=9, description="of its polls; 9 goes first")
    on_message: str | None = Field(default=None, description="the task that gets the id of each new message")
    keep_raw: Literal["never", "always", "failed"] = Field(
        default="never", description="which messages are kept as .eml; failed: until they are processed"
    )
    first_sync: Literal["all", "since", "new"] = Field(
        default="all", description="what is read of a folder at first; since: the last since_days days"
    )
    since_days: int | None = Field(default=None, ge=1, le=36_500)
    mark_seen: bool = Field(default=False, description="mark messages as read once they are stored")
    max_message_bytes: int = Field(
        default=25 * _MIB, ge=1024, le=200 * _MIB, description="of a larger one: headers only"
    )
    max_attachment_bytes: int = Field(default=25 * _MIB, ge=0, le=200 * _MIB, description="a larger one is not kept")
    batch_messages: int = Field(default=100, ge=1, le=500, description="read and stored together")
    batch_bytes: int = Field(default=8 * _MIB, ge=1024, le=64 * _MIB)
    timeouts: Timeouts = Timeouts()

    @field_validator("on_message")
    @classmethod
    def _is_task(cls, name: str | None) -> str | None:
        try:
            return None if name is None else check_task(name)
        except NameRefusedError as exc:
            raise ValueError(str(exc)) from None

    @field_validator("folders")
    @classmethod
    def _once_each(cls, folders: tuple[str, ...]) -> tuple[str, ...]:
        # INBOX is one folder in any spelling.
        names = tuple("INBOX" if name.upper() == "INBOX" else name for name in folders)
        if len(set(names)) != len(names):
            raise ValueError("names a folder twice")
        return names

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.password is None) == (self.oauth is None):
            raise ValueError("password: give it or oauth, one of the two")
        if (self.since_days is not None) != (self.first_sync == "since"):
            raise ValueError('since_days goes with first_sync = "since", and only with it')
        return self

    @property
    def effective_port(self) -> int:
        """The port that is connected to."""
        return self.port or _STANDARD_PORTS[self.security]

    @property
    def place(self) -> str:
        """`host:port`, as messages name the server."""
        return f"{self.host}:{self.effective_port}"
