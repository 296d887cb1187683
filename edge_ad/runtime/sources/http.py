"""Motion JPEG and snapshots over HTTP, read here so that timeouts, logins and logs are under control.

Anything else that an HTTP address may hold (a video file, HLS) is handed to FFmpeg.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from edge_ad.data.images import decode_image
from edge_ad.errors import ConfigError, DataError
from edge_ad.runtime.settings import SourceSettings
from edge_ad.runtime.sources.address import credentials, redact
from edge_ad.runtime.sources.base import Picture, Source, SourceLost
from edge_ad.runtime.sources.framing import MAX_IMAGE, MultipartFramer
from edge_ad.runtime.sources.video import StreamSource

CHUNK = 1 << 16
SNAPSHOT_S = 0.1  # pause between snapshots when no fps is set


class HttpSource(Source):
    """`http://...`: multipart/x-mixed-replace (motion JPEG), a single JPEG polled as snapshots, or a stream."""

    live = True

    def __init__(self, settings: SourceSettings) -> None:
        self.settings, self.name = settings, redact(settings.address)
        self.longest_s = settings.timeout_s
        parts = urlsplit(settings.address)
        host = parts.netloc.rpartition("@")[2]
        self._url = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
        connections = [_Http(self._keep_socket), _Https(self._keep_socket, camera_tls(settings.ca_file))]
        self._opener = urllib.request.build_opener(*connections, *self._login_handlers())
        self._socket: socket.socket | None = None
        self._interrupted = False
        self._response: Any = None
        self._framer = MultipartFramer("")
        self._stream: StreamSource | None = None
        self._number, self._due = 0, 0.0

    def open(self) -> None:
        """Connect and look at what the address holds."""
        self.close()
        self._interrupted = False
        response = self._request()
        if self._interrupted:  # what there is of its headers says nothing
            response.close()
            raise SourceLost(f"{self.name} does not answer", "check the camera and the network")
        kind = response.headers.get_content_type()
        if kind == "multipart/x-mixed-replace":
            self._response = response
            self._framer = MultipartFramer(str(response.headers.get_param("boundary") or ""))
        elif kind.startswith("image/"):
            response.close()
        else:
            response.close()
            self._stream = StreamSource(self.settings)
            self._stream.open()

    def read(self) -> Picture | None:
        """The next frame, whole within `timeout_s`. DataError: a part that is no whole JPEG; the stream goes on."""
        if self._stream:
            return self._stream.read()
        try:
            data, whole = self._next_part() if self._response else (self._snapshot(), True)
        except (OSError, HTTPException, ValueError) as error:
            raise SourceLost(f"{self.name} stopped: {_words(error)}", "check the camera and the network") from error
        captured_ns, time_ns = time.monotonic_ns(), time.time_ns()
        self._number += 1
        if not whole:
            raise DataError(
                f"{self.name} sent a broken image: it is cut short after {len(data):,} bytes", "check the network"
            )
        try:  # half a JPEG would decode with gray below, and be judged; a huge one would fill the memory
            frame = decode_image(data, f"image {self._number - 1}")
        except DataError as error:
            raise DataError(f"{self.name} sent a broken image: {error.message}", "check the network") from None
        return Picture(frame, self._number - 1, time_ns, captured_ns)

    def interrupt(self) -> None:
        """Hang up under a thread that waits."""
        self._interrupted = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up."""
        if self._response is not None:
            with contextlib.suppress(OSError, HTTPException):
                self._response.close()
        if self._stream:
            self._stream.close()
        self._response = self._stream = self._socket = None

    def _keep_socket(self, connected: socket.socket) -> None:
        self._socket = connected

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
            certificate = isinstance(getattr(error, "reason", error), ssl.SSLCertVerificationError)
            hint = "save the camera's certificate in a file and name it in source.ca_file" if certificate else ""
            hint = hint or "check the address, the camera and the network"
            raise SourceLost(f"{self.name} can't be reached: {_words(error)}", hint) from None

    def _snapshot(self) -> bytes:
        period = 1.0 / self.settings.fps if self.settings.fps else SNAPSHOT_S
        time.sleep(max(self._due - time.monotonic(), 0.0))
        self._due = time.monotonic() + period
        end = time.monotonic() + self.settings.timeout_s
        data = bytearray()
        with self._request() as response:
            while (chunk := self._receive(response, end)) and len(data) <= MAX_IMAGE:
                data += chunk
        return bytes(data)

    def _next_part(self) -> tuple[bytes, bool]:
        """One part's body and whether it is a whole picture."""
        end = time.monotonic() + self.settings.timeout_s
        while (piece := self._framer.next()) is None:
            if self._framer.waiting > MAX_IMAGE:
                raise ValueError("an image without an end")
            chunk = self._receive(self._response, end)
            if not chunk:
                raise ConnectionError("the stream ended")
            self._framer.feed(chunk)
        return piece.data, piece.whole

    def _receive(self, response: Any, end: float) -> bytes:
        """What is there, at the latest at `end` (of time.monotonic): a byte now and then is no sign of life."""
        left_s = end - time.monotonic()
        try:
            if left_s <= 0:
                raise TimeoutError
            if self._socket is not None:
                self._socket.settimeout(left_s)
            return bytes(response.read1(CHUNK))
        except TimeoutError:
            raise TimeoutError(f"no whole frame within {self.settings.timeout_s:g} s") from None


def camera_tls(ca_file: str) -> ssl.SSLContext:
    """What certificates are accepted: those of the system's authorities, or the one in `ca_file` or signed by it.

    With `ca_file` the name in the certificate doesn't matter: cameras are called by their address.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:  # an SSLError is one
        raise ConfigError(
            f"source.ca_file {ca_file} can't be used: {error.strerror or error}", "give a certificate in PEM format"
        ) from error
    if ca_file:
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _keeping(kind: Any, keep: Callable[[socket.socket], None]) -> Any:
    """The kind of connection, which tells of its socket once there is one."""

    class Connection(kind):
        def connect(self) -> None:
            super().connect()
            keep(self.sock)

    return Connection


class _Http(urllib.request.HTTPHandler):
    def __init__(self, keep: Callable[[socket.socket], None]) -> None:
        super().__init__()
        self._connection = _keeping(HTTPConnection, keep)

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._connection, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, keep: Callable[[socket.socket], None], context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self._connection = functools.partial(_keeping(HTTPSConnection, keep), context=context)

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._connection, req)


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
