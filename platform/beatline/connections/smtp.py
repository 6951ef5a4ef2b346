"""Sessions with a mail server: connected to the address that was checked, encrypted as declared, logged in."""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from beatline.connections.errors import ConnectionFaultError
from beatline.connections.open import OpenConnection, get_of_type
from beatline.errors import BeatlineError, TransientError
from beatline.outbound.guard import resolve

if TYPE_CHECKING:
    from beatline.installation import Installation

_TIMEOUT_S: Final = 20.0
_CONNECT_TIMEOUT_S: Final = 5.0
_PASSING: Final = range(400, 500)


class _Smtp(smtplib.SMTP):
    """smtplib's client over a socket to an address that was checked; TLS asks for the host's name."""

    def __init__(self, host: str, port: int, addresses: list[str], context: ssl.SSLContext | None) -> None:
        self._addresses, self._context = addresses, context
        super().__init__(host, port, local_hostname=_own_name(), timeout=_TIMEOUT_S)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        """What smtplib calls to connect."""
        failed: OSError = ConnectionRefusedError(f"{host} has no address")
        for address in self._addresses:
            try:
                plain = socket.create_connection((address, port), _CONNECT_TIMEOUT_S)
            except OSError as exc:
                failed = exc
                continue
            plain.settimeout(timeout)
            return plain if self._context is None else _secured(self._context, plain, host)
        raise failed


@contextmanager
def smtp_session(installation: Installation, name_or_id: str) -> Generator[smtplib.SMTP]:
    """A mail server that awaits mail; it is told goodbye at the end.

    Raises ConnectionFaultError for what a person must mend, TransientError for what may pass, AddressRefusedError.
    What goes wrong inside the block is smtplib's own error.
    """
    found = get_of_type(installation, name_or_id, "smtp")
    with open_session(found, allow_private=installation.settings.allow_private_addresses) as smtp:
        yield smtp


@contextmanager
def open_session(found: OpenConnection, *, allow_private: bool) -> Generator[smtplib.SMTP]:
    """As `smtp_session`, of a connection that was read already."""
    smtp = _connect(found, allow_private=allow_private)
    try:
        yield smtp
    finally:
        with suppress(smtplib.SMTPException, OSError):
            smtp.quit()
        smtp.close()


def _connect(found: OpenConnection, *, allow_private: bool) -> smtplib.SMTP:
    spec = found.spec
    smtp: smtplib.SMTP | None = None
    try:
        addresses = resolve(spec.host, spec.port, allow_private=allow_private)
        context = None if spec.encrypted == "plain" else ssl.create_default_context()
        smtp = _Smtp(spec.host, spec.port, addresses, context if spec.encrypted == "tls" else None)
        smtp.ehlo_or_helo_if_needed()
        if spec.encrypted == "starttls":
            smtp.starttls(context=context)
            smtp.ehlo()
        if spec.login is not None and spec.password is not None:
            smtp.login(spec.login, spec.password.get_secret_value())
    except (OSError, smtplib.SMTPException, BeatlineError) as exc:
        if smtp is not None:
            smtp.close()
        raise _in_words(found, exc) from None
    return smtp


def _in_words(found: OpenConnection, exc: Exception) -> Exception:
    spec = found.spec
    start = f"{found.definition.called}: {spec.place}"
    if isinstance(exc, TransientError):
        return TransientError(f"{found.definition.called}: {exc}")
    if isinstance(exc, BeatlineError):
        return exc
    match exc:
        case ssl.SSLCertVerificationError():
            return ConnectionFaultError(
                f"{start}: its certificate is not trusted: {exc.verify_message}. SSL_CERT_FILE names the authorities "
                "that the workers trust."
            )
        case ssl.SSLError():
            hint = "starttls for port 587 and 25, tls for 465" if spec.encrypted == "tls" else "plain"
            return ConnectionFaultError(f"{start}: it does not speak TLS there; security may have to be {hint}.")
        case smtplib.SMTPAuthenticationError(smtp_code=code) if code in _PASSING:
            return TransientError(f"{start}: it cannot check the login now ({_answer(exc)}).")
        case smtplib.SMTPAuthenticationError():
            return ConnectionFaultError(
                f"{start}: it refuses the user {spec.login!r} or the password ({_answer(exc)})."
            )
        case smtplib.SMTPNotSupportedError() if "AUTH" in str(exc):
            return ConnectionFaultError(
                f"{start}: it takes no login this way; leave user and password out, or encrypt."
            )
        case smtplib.SMTPNotSupportedError():
            return ConnectionFaultError(f"{start}: it offers no STARTTLS: set security to tls or plain.")
        case smtplib.SMTPResponseException(smtp_code=code) if code not in _PASSING:
            return ConnectionFaultError(f"{start}: it answers {_answer(exc)}.")
        case smtplib.SMTPResponseException():
            return TransientError(f"{start}: it answers {_answer(exc)}.")
        case TimeoutError():
            return TransientError(f"{start}: it does not answer in time.")
        case ConnectionRefusedError():
            return TransientError(f"{start}: it refuses the connection: no server listens there.")
        case smtplib.SMTPServerDisconnected():
            return TransientError(f"{start}: it closed the connection; if it speaks TLS there, set security to tls.")
        case smtplib.SMTPException():
            return ConnectionFaultError(f"{start}: {exc}.")
        case _:
            return TransientError(f"{start}: {getattr(exc, 'strerror', None) or exc}.")


def _answer(exc: Any) -> str:
    said = exc.smtp_error if isinstance(exc.smtp_error, str) else bytes(exc.smtp_error).decode("utf-8", "replace")
    return f"{exc.smtp_code} {' '.join(said.split())[:200]}".rstrip(". ")


def _secured(context: ssl.SSLContext, plain: socket.socket, host: str) -> socket.socket:
    try:
        return context.wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


def _own_name() -> str:
    # smtplib would ask the resolver, which may take longer than the mail.
    name = socket.gethostname()
    return name if name.isascii() and name.replace("-", "").replace(".", "").isalnum() else "localhost"
