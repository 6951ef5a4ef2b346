"""A small real S3 server on loopback: signed requests, whole and multipart uploads, ranges; it may stop and start again.

It keeps objects on the disk and refuses what is not signed with its secret, as AWS describes it in "Signature
Version 4"; nothing of what it checks is taken from the client that is tested.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import shutil
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

KEY_ID: Final = "AKIDEXAMPLE"
SECRET: Final = "s3-hush-hush"
REGION: Final = "us-east-1"
_CHUNK_BYTES: Final = 256 * 1024


class S3:
    """A server with one bucket; `objects` maps keys to files, `asked` holds each request's method and path."""

    def __init__(self, folder: Path, bucket: str = "shelf") -> None:
        self.folder, self.bucket, self.port = folder, bucket, 0
        self.asked: list[tuple[str, str]] = []
        self.tokens: set[str | None] = set()
        """Session tokens that came with requests."""
        self.failing: int | None = None
        """A status with which everything is refused, while it is set."""
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self.open: set[socket.socket] = set()
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def endpoint(self) -> str:
        """Where it answers, or answered."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen; on the port of before, if there was one."""
        handler = type("Handler", (_Handler,), {"s3": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and cut every connection; objects stay."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None
            for connection in tuple(self.open):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def path_of(self, key: str) -> Path:
        """The file that holds an object."""
        return self.folder / quote(key, safe="")

    def keys(self) -> list[str]:
        """The keys of all objects."""
        return sorted(unquote(path.name) for path in self.folder.iterdir() if path.is_file())


@contextmanager
def serve_s3(folder: Path) -> Generator[S3]:
    """Serve until the context is left."""
    s3 = S3(folder)
    s3.start()
    try:
        yield s3
    finally:
        s3.stop()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    s3: S3

    def setup(self) -> None:
        super().setup()
        self.s3.open.add(self.connection)

    def finish(self) -> None:
        self.s3.open.discard(self.connection)
        super().finish()

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.s3.asked.append((self.command, self.path))
        self.s3.tokens.add(self.headers.get("x-amz-security-token"))
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        draft = self._receive()
        try:
            refusal = self._refusal(bucket)
            if refusal is not None:
                self._fail(*refusal)
            else:
                getattr(self, f"_{self.command.lower()}")(key, query, draft)
        finally:
            draft.unlink(missing_ok=True)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle

    def _refusal(self, bucket: str) -> tuple[int, str] | None:
        if self.s3.failing is not None:
            return self.s3.failing, "InternalError"
        if f"Credential={KEY_ID}/" not in self.headers.get("Authorization", ""):
            return 403, "InvalidAccessKeyId"
        if not self._signed():
            return 403, "SignatureDoesNotMatch"
        return (404, "NoSuchBucket") if bucket != self.s3.bucket else None

    def _signed(self) -> bool:
        found = re.search(
            r"Credential=([^,]+), ?SignedHeaders=([^,]+), ?Signature=(\w+)", self.headers["Authorization"]
        )
        if found is None:
            return False
        scope, names, signature = found[1].partition("/")[2], found[2], found[3]
        parts = urlsplit(self.path)
        pairs = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in parse_qsl(parts.query, True))
        headers = "".join(f"{name}:{' '.join(self.headers[name].split())}\n" for name in names.split(";"))
        query = "&".join(f"{k}={v}" for k, v in pairs)
        body = self.headers["x-amz-content-sha256"]
        request = f"{self.command}\n{parts.path}\n{query}\n{headers}\n{names}\n{body}"
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = "\n".join(("AWS4-HMAC-SHA256", self.headers["x-amz-date"], scope, digest))
        key = f"AWS4{SECRET}".encode()
        for step in scope.split("/"):
            key = hmac.digest(key, step.encode(), "sha256")
        return hmac.compare_digest(hmac.digest(key, text.encode(), "sha256").hex(), signature)

    def _receive(self) -> Path:
        """The request's body, on the disk."""
        parts = self.s3.folder / "parts"
        parts.mkdir(exist_ok=True)
        draft = parts / f"draft-{threading.get_ident()}"
        left = int(self.headers.get("Content-Length", 0))
        with draft.open("wb") as file:
            while left and (chunk := self.rfile.read(min(left, _CHUNK_BYTES))):
                file.write(chunk)
                left -= len(chunk)
        return draft

    def _put(self, key: str, query: dict[str, str], draft: Path) -> None:
        if "partNumber" in query:
            place = self.s3.folder / "parts" / f"{query['uploadId']}-{int(query['partNumber']):06}"
        else:
            place = self.s3.path_of(key)
        draft.replace(place)
        self._answer(200, headers={"ETag": f'"{place.stat().st_size}"'})

    def _post(self, key: str, query: dict[str, str], draft: Path) -> None:
        if "uploads" in query:
            upload = hashlib.sha256(f"{key}{len(self.s3.asked)}".encode()).hexdigest()[:16]
            return self._answer(200, _xml("InitiateMultipartUploadResult", UploadId=upload, Key=key))
        place = self.s3.path_of(key)
        whole = place.with_name("parts") / f"{query['uploadId']}-whole"
        with whole.open("wb") as file:
            for part in sorted((self.s3.folder / "parts").glob(f"{query['uploadId']}-[0-9]*")):
                with part.open("rb") as piece:
                    shutil.copyfileobj(piece, file)
                part.unlink()
        whole.replace(place)
        return self._answer(200, _xml("CompleteMultipartUploadResult", Key=key, ETag='"whole"'))

    def _get(self, key: str, query: dict[str, str], draft: Path) -> None:
        path = self.s3.path_of(key)
        if not key or not path.is_file():
            return self._fail(404, "NoSuchKey")
        size = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = (int(asked[1]), min(int(asked[2] or size), size - 1)) if asked else (0, size - 1)
        headers = {"ETag": f'"{size}"', "Last-Modified": "Sun, 22 Nov 2026 08:00:00 GMT"}
        headers |= {"Content-Range": f"bytes {first}-{last}/{size}"} if asked else {}
        self._start(206 if asked else 200, last - first + 1, headers)
        with path.open("rb") as file:
            file.seek(first)
            left = 0 if self.command == "HEAD" else last - first + 1
            while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
                self.wfile.write(chunk)
                left -= len(chunk)
        return None

    _head = _get

    def _delete(self, key: str, query: dict[str, str], draft: Path) -> None:
        if "uploadId" not in query:
            self.s3.path_of(key).unlink(missing_ok=True)
        self._answer(204)

    def _fail(self, status: int, code: str) -> None:
        self._answer(status, _xml("Error", Code=code, Message=f"made up: {code}"))

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self._start(status, len(body), headers or {})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _start(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _xml(root: str, **fields: str) -> bytes:
    return f"<{root}>{''.join(f'<{k}>{v}</{k}>' for k, v in fields.items())}</{root}>".encode()
