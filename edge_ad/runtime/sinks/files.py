"""Sinks that write files: JSON lines, pictures of rejects and sampled accepts, one annotated video, a preview."""

from __future__ import annotations

import fcntl
import io
import itertools
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TextIO

import cv2
import numpy as np

from edge_ad.data.images import encode_image
from edge_ad.errors import ConfigError
from edge_ad.runtime.overlay import ScoreScale, annotate
from edge_ad.runtime.settings import ImagesSettings, VideoSettings
from edge_ad.runtime.sinks.base import Delivery, Frame, PixelScores, Sink
from edge_ad.runtime.verdict import Verdict

log = logging.getLogger(__name__)
CLEAN_EVERY = 50  # pictures between two looks at the folder's size
# a verdict's source -> its heat map's scale; None: the picture's own, which makes pictures incomparable
ScaleOf = Callable[[str], ScoreScale | None]
OVERLAY_PIXELS = 1 << 22  # of a picture with heat map: drawing all of a 12000 x 12000 one took 5 GB and 46 s


class JsonLinesSink(Sink):
    """One line of JSON a verdict, on a stream; a line means that the verdict is stored."""

    name = "json"

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, verdict: Verdict, frame: Frame | None = None, pixel_scores: PixelScores | None = None) -> None:
        """Write and flush the line."""
        self._stream.write(verdict.to_json() + "\n")
        self._stream.flush()


class ImageSink(Sink):
    """Pictures of rejects and of a sample of accepts: FOLDER/<day>/<id>.jpg, .overlay.jpg and .npy.

    Files appear whole or not at all. The folder is kept below its size and age; the oldest go first.
    """

    def __init__(
        self, folder: str | Path, settings: ImagesSettings | None = None, scale_of: ScaleOf = lambda source: None
    ) -> None:
        self.name, self.folder, self.scale_of = "images", Path(folder), scale_of
        self.settings = settings or ImagesSettings()
        self._accepts = self._written = 0

    def open(self) -> None:
        """Create the folder; remove what a crash left half-written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.rglob(".tmp-*"):
            left.unlink(missing_ok=True)

    def write(self, verdict: Verdict, frame: Frame | None = None, pixel_scores: PixelScores | None = None) -> None:
        """Write the pictures of this verdict, when it is one to keep."""
        if frame is None or not self._wanted(verdict):
            return
        day = self.folder / verdict.time.strftime("%Y-%m-%d")
        day.mkdir(exist_ok=True)
        _write(day / f"{verdict.id}.jpg", encode_image(frame, ".jpg", 92))
        if self.settings.overlay:
            height = min(frame.shape[0], max(round(frame.shape[0] * (OVERLAY_PIXELS * 3 / frame.size) ** 0.5), 1))
            overlay = annotate(frame, verdict, pixel_scores, self.scale_of(verdict.source), height)
            _write(day / f"{verdict.id}.overlay.jpg", encode_image(overlay, ".jpg", 85))
        if self.settings.scores and pixel_scores is not None:
            buffer = io.BytesIO()
            np.save(buffer, pixel_scores, allow_pickle=False)
            _write(day / f"{verdict.id}.npy", buffer.getvalue())
        self._written += 1
        if self._written % CLEAN_EVERY == 0:
            self.clean()

    def clean(self) -> int:
        """Remove files that are too old or too many; returns how many."""
        found = []
        for path in self.folder.rglob("*"):
            if path.is_file() and not path.name.startswith("."):
                status = path.stat()
                found.append((status.st_mtime, path.name, status.st_size, path))
        found.sort()
        total = sum(size for _, _, size, _ in found)
        oldest = time.time() - self.settings.days * 86400 if self.settings.days else float("-inf")
        limit = self.settings.max_mb * 1e6 if self.settings.max_mb else float("inf")
        removed = 0
        for changed, _, size, path in found:
            if changed >= oldest and total <= limit:
                break
            path.unlink(missing_ok=True)
            total -= size
            removed += 1
        return removed

    def _wanted(self, verdict: Verdict) -> bool:
        if verdict.decision != "OK":
            return True
        self._accepts += 1
        every = self.settings.accepts_every
        return every > 0 and (self._accepts - 1) % every == 0


class VideoSink(Sink):
    """One annotated video: every inspected picture with heat map, boxes and decision."""

    delivery: Delivery = "now"

    def __init__(self, settings: VideoSettings, scale_of: ScaleOf = lambda source: None) -> None:
        self.name, self.settings, self.path, self.scale_of = "video", settings, Path(settings.path), scale_of
        if self.path.suffix.lower() not in (".mp4", ".avi"):
            raise ConfigError(f"video.path = {settings.path!r}", "let it end in .mp4 or .avi")
        self._writer: Any = None
        self._claimed: IO[bytes] | None = None
        self._size = (0, 0)
        self._part = 0

    def open(self) -> None:
        """The file is opened with the first picture, whose shape decides the video's."""
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, verdict: Verdict, frame: Frame | None = None, pixel_scores: PixelScores | None = None) -> None:
        """Add a picture; a verdict without one adds none."""
        if frame is None:
            return
        picture = annotate(frame, verdict, pixel_scores, self.scale_of(verdict.source), self.settings.height)
        if self._writer is None:
            self._start(max(picture.shape[1] // 2 * 2, 2), picture.shape[0] // 2 * 2)
        if (picture.shape[1], picture.shape[0]) != self._size:
            picture = _letterboxed(picture, self._size)
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file; without this an .mp4 can't be played."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
        if self._claimed is not None:
            self._claimed.close()
            self._claimed = None

    def _start(self, width: int, height: int) -> None:
        path = self._claim()
        code = "mp4v" if path.suffix.lower() == ".mp4" else "MJPG"
        fourcc = cv2.VideoWriter.fourcc(*code)
        self._writer = cv2.VideoWriter(str(path), fourcc, self.settings.fps, (width, height))
        if not self._writer.isOpened():
            self._writer = None
            raise OSError(f"OpenCV can't write {path}")
        self._size = (width, height)

    def _claim(self) -> Path:
        """The file to write, locked: neither this run's first part, nor one that another run is writing now."""
        for number in itertools.count(self._part):
            path = self.path.with_stem(f"{self.path.stem}-{number}") if number else self.path
            file = path.open("ab")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                log.warning("another run writes %s: this one goes on to the next name", path)
                continue
            self._claimed, self._part = file, number + 1
            return path
        raise AssertionError("there is always another number")


class PreviewSink(Sink):
    """Keeps the latest picture for a window, which must be drawn by the main thread: call `show` there."""

    delivery: Delivery = "now"

    def __init__(self, title: str, scale_of: ScaleOf = lambda source: None) -> None:
        self.name, self.title, self.scale_of = "window", title, scale_of
        self._latest: tuple[Verdict, Frame, PixelScores | None] | None = None

    def write(self, verdict: Verdict, frame: Frame | None = None, pixel_scores: PixelScores | None = None) -> None:
        """Keep it."""
        if frame is not None:
            self._latest = (verdict, frame, pixel_scores)

    def show(self) -> bool:
        """Draw the latest picture; False when the user pressed q or Escape. cv2.error: no window can be had."""
        latest, self._latest = self._latest, None
        if latest:
            verdict, frame, scores = latest
            picture = annotate(frame, verdict, scores, self.scale_of(verdict.source), 720)
            cv2.imshow(self.title, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        return cv2.waitKey(1) & 0xFF not in (ord("q"), 27)


def can_show_windows() -> bool:
    """Whether this OpenCV has windows and there is a display to put them on."""
    if not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY"):
        return False
    gui = [line for line in cv2.getBuildInformation().splitlines() if line.strip().startswith("GUI:")]
    return bool(gui) and "NONE" not in gui[0]


def _letterboxed(picture: Frame, size: tuple[int, int]) -> Frame:
    """The picture scaled to fit (width, height), on black: a video has one size."""
    width, height = size
    scale = min(width / picture.shape[1], height / picture.shape[0])
    inner = cv2.resize(picture, (max(int(picture.shape[1] * scale), 1), max(int(picture.shape[0] * scale), 1)))
    canvas = np.zeros((height, width, 3), np.uint8)
    top, left = (height - inner.shape[0]) // 2, (width - inner.shape[1]) // 2
    canvas[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return canvas


def _write(path: Path, data: bytes) -> None:
    """The file, whole or not at all; not forced to the disk: a line writes many, and can do without the last."""
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
