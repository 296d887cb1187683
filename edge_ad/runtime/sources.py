"""Source: where frames come from. `open_source` picks the kind by the address."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import numpy as np
import numpy.typing as npt

from edge_ad.data.images import SUFFIXES
from edge_ad.errors import BackendError, ConfigError, DataError
from edge_ad.runtime.settings import SourceSettings

VIDEO_SUFFIXES = {".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv"}


class SourceLost(BackendError):
    """The camera or stream stopped or can't be reached now; opening it again may help."""


@dataclass(frozen=True)
class Picture:
    """One frame with its place and time.

    frame: uint8 [H, W, 3] RGB. number: its number in the source, from 0, counting dropped ones.
    time_ns: wall clock, captured_ns: monotonic clock, both when it was taken. label: the file's name, else empty.
    """

    frame: npt.NDArray[np.uint8]
    number: int
    time_ns: int
    captured_ns: int
    label: str = ""


class Source:
    """Frames one after the other; used by one thread.

    name: for verdicts and logs, without credentials. live: a camera, which goes on whether or not we look.
    """

    name: str
    live: bool

    def open(self) -> None:
        """Connect; may be called again after `close`. SourceLost: not reachable now."""

    def read(self) -> Picture | None:
        """The next frame; None at the end. SourceLost: the camera is gone. DataError: this one image is broken
        (the next call goes on with the next)."""
        raise NotImplementedError

    def close(self) -> None:
        """Release the device; may be called twice."""


def open_source(settings: SourceSettings) -> Source:
    """The source for an address, not yet opened. ConfigError: the address means nothing here."""
    from edge_ad.runtime import sources_files, sources_http, sources_video  # noqa: PLC0415  (they import this file)

    address = settings.address.strip()
    scheme = address.partition("://")[0].lower() if "://" in address else ""
    if not address:
        raise ConfigError("no camera or source was given", "use --camera 0, or --source FILE, FOLDER or URL")
    if scheme and " ! " not in address:
        try:
            urlsplit(address)
        except ValueError as error:
            raise ConfigError(f"source {address} is no URL: {error}", "correct the address") from error
    if address == "-":
        return sources_files.StdinSource(settings)
    if scheme == "watch":
        return sources_files.WatchedFolder(settings, Path(address[len("watch://") :]))
    if scheme == "genicam":
        from edge_ad.runtime.sources_genicam import GenicamSource  # noqa: PLC0415  (optional package)

        return GenicamSource(settings, address[len("genicam://") :])
    if scheme in ("http", "https"):
        return sources_http.HttpSource(settings)
    if scheme == "csi" or " ! " in address:
        return sources_video.GStreamerSource(settings)
    if scheme in ("rtsp", "rtsps", "rtmp", "udp", "tcp", "srt"):
        return sources_video.StreamSource(settings)
    if scheme == "v4l2" or address.isdigit() or address.startswith("/dev/video"):
        return sources_video.V4l2Source(settings)
    path = Path(address[len("file://") :] if scheme == "file" else address)
    if path.is_dir():
        return sources_files.FolderSource(settings, path)
    if not path.exists():
        raise DataError(f"source {redact(address)} does not exist", "give a file, folder, camera number or URL")
    if path.suffix.lower() in SUFFIXES:
        return sources_files.FolderSource(settings, path)
    return sources_video.VideoFileSource(settings, path)


def redact(address: str) -> str:
    """The address without user, password and query (where cameras also take passwords)."""
    if "://" not in address:
        return re.sub(r"(user-(?:id|pw)|password|passwd|pwd|token)=\S+", r"\1=***", address)
    if " ! " in address:  # a pipeline with a URL inside
        return " ".join(redact(part) if "://" in part and " " not in part else part for part in _words(address))
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _words(pipeline: str) -> list[str]:
    words = []
    for word in pipeline.split():
        key, sign, value = word.partition("=")
        if sign and "://" in value:
            word = f"{key}={redact(value.strip(chr(34)))}"
        elif sign and key in ("user-id", "user-pw", "password"):
            word = f"{key}=***"
        words.append(word)
    return words


def credentials(settings: SourceSettings) -> tuple[str, str]:
    """User and password: from the settings and the password file, else from the address; empty when none."""
    parts = urlsplit(settings.address) if "://" in settings.address and " ! " not in settings.address else None
    user = settings.username or (parts.username or "" if parts else "")
    password = parts.password or "" if parts else ""
    if settings.password_file:
        try:
            password = Path(settings.password_file).read_text(encoding="utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"can't read the password file {settings.password_file}: {error}", "check its path and rights"
            ) from error
    return user, password


def address_with_credentials(settings: SourceSettings) -> str:
    """The address that the device is opened with; never log it."""
    user, password = credentials(settings)
    if not user:
        return settings.address
    parts = urlsplit(settings.address)
    host = parts.netloc.rpartition("@")[2]
    login = quote(user, safe="") + (":" + quote(password, safe="") if password else "")
    return urlunsplit((parts.scheme, f"{login}@{host}", parts.path, parts.query, parts.fragment))
