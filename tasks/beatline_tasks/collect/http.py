"""Pages over HTTP: bounded in time, redirects checked, `later` obeyed; every failure in words."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self
from urllib.parse import urljoin, urlsplit

import httpx

from beatline.clock import monotonic_s
from beatline.errors import TransientError
from beatline.outbound.transport import Deadline, GuardedTransport, words_of
from beatline_tasks.collect.answer import Answer, in_words, read
from beatline_tasks.collect.errors import SourceError
from beatline_tasks.collect.headers import own_headers, retry_after_s
from beatline_tasks.collect.pagination import without_query
from beatline_tasks.collect.source import Source

_REDIRECTS: Final = 5
_TRIES: Final = 4
_WAIT_S: Final = 15.0
"""What a run waits in all for a source that says "later"; a longer wait is a new attempt of the run."""
_LATER: Final = frozenset({429, 503})
_MOVED: Final = frozenset({301, 302, 303, 307, 308})
_NOT_MODIFIED: Final = 304


class Fetcher:
    """Gets the pages of one source. `identity` goes along as headers, so that a server can tell runs apart."""

    def __init__(self, source: Source, identity: Mapping[str, str], *, allow_private: bool) -> None:
        self._source = source
        self._identity = identity
        self._deadline = Deadline()
        self._ends_s = monotonic_s() + source.timeouts.run_s
        self._waited_s = 0.0
        times = source.timeouts
        self._client = httpx.Client(
            transport=GuardedTransport(self._deadline, allow_private=allow_private),
            timeout=httpx.Timeout(times.read_s, connect=times.connect_s),
            trust_env=False,  # a proxy of the environment would connect in our place, unchecked
            follow_redirects=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def get(self, url: str, conditional: Mapping[str, str]) -> Answer:
        """The page at an address. `conditional` are the headers that ask only for what changed.

        Raises SourceError for what a person must mend, TransientError for what may pass.
        """
        tried = 0
        while True:
            tried += 1
            with _words_for_failures(url), self._follow(url, conditional) as response:
                if response.status_code not in _LATER or response.status_code in self._source.expect.status:
                    if response.status_code == _NOT_MODIFIED and conditional:
                        return Answer(str(response.url), {}, not_modified=True)
                    return read(response, self._source)
                asked_s = retry_after_s(response.headers.get("retry-after"))
                problem = in_words(response, self._source, "it asks to be called later")
            self._wait(0.5 * 2**tried if asked_s is None else asked_s, TransientError(problem, asked_s), tried)

    def _wait(self, wait_s: float, problem: TransientError, tried: int) -> None:
        """Wait within the run, or raise the problem if that is too long."""
        if tried >= _TRIES or self._waited_s + wait_s > _WAIT_S or monotonic_s() + wait_s > self._ends_s:
            raise problem
        self._waited_s += wait_s
        time.sleep(wait_s)

    @contextmanager
    def _follow(self, url: str, conditional: Mapping[str, str]) -> Generator[httpx.Response]:
        """The response at the end of the redirects; closed by leaving the context."""
        now_s = monotonic_s()
        if now_s >= self._ends_s:
            raise TransientError(
                f"The {self._source.timeouts.run_s:g} s for one run (timeouts.run_s) are over at {without_query(url)}."
            )
        self._deadline.set(min(now_s + self._source.timeouts.page_s, self._ends_s))
        for _ in range(_REDIRECTS + 1):
            headers = {"accept-encoding": "gzip", "user-agent": "beatline", **self._identity, **conditional}
            request = self._client.build_request("GET", url, headers=headers | own_headers(self._source, url))
            response = self._client.send(request, stream=True)
            try:
                moved = response.headers.get("location") if response.status_code in _MOVED else None
                if moved is None:
                    yield response
                    return
            finally:
                response.close()
            url = _moved_to(url, moved)
        raise SourceError(f"{without_query(url)} redirects more than {_REDIRECTS} times: correct the source's url.")


@contextmanager
def _words_for_failures(url: str) -> Generator[None]:
    """Turn what httpx raises into our errors; no message shows a query."""
    where = without_query(url)
    try:
        yield
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise SourceError(f"{where} is no address of http or https.") from None
    except httpx.TimeoutException as exc:
        raise TransientError(
            f"{where} did not answer in time: {words_of(exc)} (timeouts.connect_s, read_s, page_s)."
        ) from exc
    except httpx.HTTPError as exc:
        if "CERTIFICATE_VERIFY_FAILED" in str(exc):
            raise SourceError(
                f"{where} has a certificate that cannot be verified: {exc}. "
                "For certificates of your own, set SSL_CERT_FILE for the workers."
            ) from exc
        raise TransientError(f"{where} cannot be reached: {words_of(exc)}.") from exc


def _moved_to(url: str, location: str) -> str:
    try:
        moved = urljoin(url, location)
        parts = urlsplit(moved)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable, moved = False, ""
    if not usable:
        raise SourceError(f"{without_query(url)} redirects to {location[:100]!r}, no address of http or https.")
    return moved
