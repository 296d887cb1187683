"""Motion JPEG and snapshots over HTTP, read here so that timeouts, logins and logs are under control.

Anything else that an HTTP address may hold (a video file, HLS) is handed to FFmpeg.
"""

from __future__ import annotations

import contextlib
import time
import urllib.error
import urllib.request
from email.message import Message
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from edge_ad.data.images import decode_image
from edge_ad.errors import DataError
from edge_ad.runtime.settings import SourceSettings
from edge_ad.runtime.sources.address import credentials, redact
from edge_ad.runtime.sources.base import Picture, Source, SourceLost
from edge_ad.runtime.sources.video import StreamSource

MAX_IMAGE = 64 << 20  # bytes of one JPEG; a header that promises more is wrong
SNAPSHOT_S = 0.1  # pause between snapshots when no fps is set


class HttpSource(Source):
    """`http://...`: multipart/x-mixed-replace (motion JPEG), a single JPEG polled as snapshots, or a stream."""

    live = True

    def __init__(self, settings: SourceSettings) -> None:
        self.settings, self.name = settings, redact(settings.address)
        parts = urlsplit(settings.address)
        host = parts.netloc.rpartition("@")[2]
        self._url = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
        self._opener = urllib.request.build_opener(*self._login_handlers())
        self._response: Any = None
        self._boundary, self._at_part = b"", False
        self._stream: StreamSource | None = None
        self._number, self._due = 0, 0.0

    def open(self) -> None:
        """Connect and look at what the address holds."""
        self.close()
        response = self._request()
        kind = response.headers.get_content_type()
        if kind == "multipart/x-mixed-replace":
            boundary = response.headers.get_param("boundary") or ""
            self._response, self._boundary = response, str(boundary).strip('"').lstrip("-").encode()
            self._at_part = False
        elif kind.startswith("image/"):
            response.close()
        else:
            response.close()
            self._stream = StreamSource(self.settings)
            self._stream.open()

    def read(self) -> Picture | None:
        """The next frame. A JPEG that doesn't decode is a DataError; the stream goes on."""
        if self._stream:
            return self._stream.read()
        try:
            data = self._next_part() if self._response else self._snapshot()
        except (OSError, HTTPException, ValueError) as error:
            raise SourceLost(f"{self.name} stopped: {_words(error)}", "check the camera and the network") from error
        captured_ns, time_ns = time.monotonic_ns(), time.time_ns()
        self._number += 1
        try:  # half a JPEG would decode with gray below, and be judged; a huge one would fill the memory
            frame = decode_image(data, f"image {self._number - 1}")
        except DataError as error:
            raise DataError(f"{self.name} sent a broken image: {error.message}", "check the network") from None
        return Picture(frame, self._number - 1, time_ns, captured_ns)

    def close(self) -> None:
        """Hang up."""
        if self._response is not None:
            with contextlib.suppress(OSError, HTTPException):
                self._response.close()
        if self._stream:
            self._stream.close()
        self._response = self._stream = None

    def _login_handlers(self) -> list[Any]:
        user, password = credentials(self.settings)
        if not user:
            return []
        book = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        book.add_password(None, self._url, user, password)
        return [_Basic(book), _Digest(book)]

    def _request(self) -> Any:
        try:
            return self._opener.open(self._url, timeout=self.settings.timeout_s)
        except urllib.error.HTTPError as error:
            hint = "check user and password" if error.code in (401, 403) else "check the address"
            error.close()
            raise SourceLost(f"{self.name} answers {error.code} {error.reason}", hint) from None
        except (OSError, HTTPException, ValueError) as error:
            hint = "check the address, the camera and the network"
            raise SourceLost(f"{self.name} can't be reached: {_words(error)}", hint) from None

    def _snapshot(self) -> bytes:
        period = 1.0 / self.settings.fps if self.settings.fps else SNAPSHOT_S
        time.sleep(max(self._due - time.monotonic(), 0.0))
        self._due = time.monotonic() + period
        with self._request() as response:
            return bytes(response.read(MAX_IMAGE))

    def _next_part(self) -> bytes:
        """One part's body: by its Content-Length, else up to the next boundary."""
        while not self._at_part and self._line().strip().lstrip(b"-") != self._boundary:
            pass
        self._at_part = False
        headers = Message()
        while line := self._line().strip():
            key, _, value = line.decode("latin-1").partition(":")
            headers[key] = value.strip()
        length = int(headers.get("Content-Length", 0))
        if not 0 <= length <= MAX_IMAGE:
            raise ValueError(f"a part of {length} bytes")
        if length:
            data = self._response.read(length)
            if len(data) < length:
                raise ConnectionError("the stream ended inside an image")
            return bytes(data)
        return self._until_boundary()

    def _until_boundary(self) -> bytes:
        data = bytearray()
        end = b"\r\n--" + self._boundary
        while not data.endswith(end):
            line = self._line()
            data += line.rstrip(b"\r\n") if line.startswith(b"--" + self._boundary) else line
            if len(data) > MAX_IMAGE:
                raise ValueError("an image without an end")
        self._at_part = True  # the boundary is consumed: what follows are the next part's headers
        return bytes(data[: -len(end)])

    def _line(self) -> bytes:
        line = self._response.readline(1 << 16)
        if not line:
            raise ConnectionError("the stream ended")
        return bytes(line)


class _Closing(urllib.request.BaseHandler):
    """The standard handlers leave the refusal's connection open until it is collected."""

    def http_error_401(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        fp.close()
        return super().http_error_401(req, fp, code, msg, headers)  # type: ignore[misc]


class _Basic(_Closing, urllib.request.HTTPBasicAuthHandler):
    pass


class _Digest(_Closing, urllib.request.HTTPDigestAuthHandler):
    pass


def _words(error: BaseException) -> str:
    reason = getattr(error, "reason", None)
    return str(reason or error) or type(error).__name__
