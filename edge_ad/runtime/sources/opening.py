"""Which kind of source an address means."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from edge_ad.data.images import SUFFIXES
from edge_ad.errors import ConfigError, DataError
from edge_ad.runtime.settings import SourceSettings
from edge_ad.runtime.sources.address import redact
from edge_ad.runtime.sources.base import Source
from edge_ad.runtime.sources.files import FolderSource, StdinSource, WatchedFolder
from edge_ad.runtime.sources.http import HttpSource
from edge_ad.runtime.sources.video import GStreamerSource, StreamSource, V4l2Source, VideoFileSource

VIDEO_SUFFIXES = {".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv"}


def open_source(settings: SourceSettings) -> Source:
    """The source for an address, not yet opened. ConfigError: the address means nothing here."""
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
        return StdinSource(settings)
    if scheme == "watch":
        return WatchedFolder(settings, Path(address[len("watch://") :]))
    if scheme == "genicam":
        from edge_ad.runtime.sources.genicam import GenicamSource  # noqa: PLC0415  (optional package)

        return GenicamSource(settings, address[len("genicam://") :])
    if scheme in ("http", "https"):
        return HttpSource(settings)
    if scheme == "csi" or " ! " in address:
        return GStreamerSource(settings)
    if scheme in ("rtsp", "rtsps", "rtmp", "udp", "tcp", "srt"):
        return StreamSource(settings)
    if scheme == "v4l2" or address.isdigit() or address.startswith("/dev/video"):
        return V4l2Source(settings)
    path = Path(address[len("file://") :] if scheme == "file" else address)
    if path.is_dir():
        return FolderSource(settings, path)
    if not path.exists():
        raise DataError(f"source {redact(address)} does not exist", "give a file, folder, camera number or URL")
    if path.suffix.lower() in SUFFIXES:
        return FolderSource(settings, path)
    return VideoFileSource(settings, path)
