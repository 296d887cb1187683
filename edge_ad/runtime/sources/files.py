"""Image files: a folder, a watched folder, standard input."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import cast

from edge_ad.data.images import SUFFIXES, decode_image, images_below, is_image, read_image
from edge_ad.errors import DataError
from edge_ad.runtime.settings import SourceSettings
from edge_ad.runtime.sources.base import Picture, Source

log = logging.getLogger(__name__)

POLL_S = 0.1
WAIT_S = 0.5  # one wait for news of a watched folder, so that a run ends soon when it is asked to
BROKEN_S = 5.0  # a complete-looking file that still doesn't decode after this long is broken


class FolderSource(Source):
    """The images of a folder and its subfolders by name, or one image."""

    live = False

    def __init__(self, settings: SourceSettings, path: Path) -> None:
        self.settings, self.path, self.name = settings, path, path.name or str(path)
        self._number = 0
        self._files: Iterator[Path] = iter(())

    def open(self) -> None:
        """List the files."""
        if self.path.is_file():
            files = [self.path]
        else:
            try:
                # a pipe would be waited for; a link that leads nowhere is a part whose picture is missing
                files = [path for path in images_below(self.path) if path.is_file() or path.is_symlink()]
            except OSError as error:
                raise DataError(f"can't list {error.filename}: {error.strerror}", "check its rights") from error
        if not files:
            raise DataError(f"{self.path} holds no images", f"known endings: {' '.join(sorted(SUFFIXES))}")
        self._files = iter(files)

    def read(self) -> Picture | None:
        """The next image; DataError names a broken one."""
        path = next(self._files, None)
        if path is None and self.settings.repeat:
            self.open()
            path = next(self._files)
        if path is None:
            return None
        label = path.name if self.path.is_file() else str(path.relative_to(self.path))
        self._number += 1
        return _picture(path, self._number - 1, label)


class WatchedFolder(Source):
    """`watch://FOLDER`: each image once it is complete, in the order of arrival; hidden and .tmp files never.

    Complete: size and time stood still for `settle_s`, and it decodes; one that doesn't decode within 5 s more is
    reported as broken. `after` says what happens to it then; with `keep` a new start reads the files again.
    """

    live = False  # every file is a part, none may be dropped

    def __init__(self, settings: SourceSettings, path: Path) -> None:
        if not path.is_dir():
            raise DataError(f"the watched folder {path} does not exist", "create it, or correct watch://FOLDER")
        self.settings, self.path, self.name = settings, path, path.name
        self._number = 0
        self._seen: dict[Path, tuple[int, int, float]] = {}  # size, mtime, when they were first like that
        self._done: dict[Path, tuple[int, int]] = {}

    def read(self) -> Picture | None:
        """Wait a moment for the next complete image: TimeoutError means only that none came."""
        end = time.monotonic() + WAIT_S
        while True:
            for path, age in self._complete():
                try:
                    picture = _picture(path, self._number, path.name)
                except DataError:
                    if age < self.settings.settle_s + BROKEN_S:
                        continue
                    self._finish(path)
                    self._number += 1
                    raise
                self._finish(path)
                self._number += 1
                return picture
            if time.monotonic() > end:
                raise TimeoutError(f"no new image in {self.path}")
            time.sleep(POLL_S)

    def _complete(self) -> list[tuple[Path, float]]:
        now = time.monotonic()
        present: dict[Path, tuple[int, int, float]] = {}
        for path in self.path.iterdir():
            if not is_image(path):
                continue
            try:
                status = path.stat()
            except OSError:
                continue  # gone again
            state = (status.st_size, status.st_mtime_ns)
            if self._done.get(path) == state:
                continue
            known = self._seen.get(path)
            present[path] = (*state, known[2] if known and known[:2] == state else now)
        self._seen = present
        self._done = {path: state for path, state in self._done.items() if path.exists()}
        settled = [(p, now - since) for p, (_, _, since) in present.items() if now - since >= self.settings.settle_s]
        return sorted(settled, key=lambda item: (present[item[0]][1], item[0].name))

    def _finish(self, path: Path) -> None:
        size, changed, _ = self._seen.pop(path)
        self._done[path] = (size, changed)
        try:
            if self.settings.after == "delete":
                path.unlink(missing_ok=True)
            elif self.settings.after == "move":
                path.rename(_free_name(self.path / "done", path.name))
        except OSError as error:  # it was read: it stays where it is, and is not read again
            log.error("can't %s %s: %s", self.settings.after, path, error.strerror)


class StdinSource(Source):
    """`-`: JPEG or PNG images one after the other, as `ffmpeg -f image2pipe -` writes them."""

    live = False
    CHUNK = 1 << 16
    MAX_IMAGE = 64 << 20

    def __init__(self, settings: SourceSettings, stream: BufferedIOBase | None = None) -> None:
        self.settings, self.name = settings, "stdin"
        self._stream = stream
        self._buffer = bytearray()
        self._number = 0

    def open(self) -> None:
        """Take standard input."""
        self._stream = self._stream or cast("BufferedIOBase", sys.stdin.buffer)

    def read(self) -> Picture | None:
        """The next image; bytes between images are skipped."""
        data = self._next_image()
        if data is None:
            return None
        captured_ns, time_ns = time.monotonic_ns(), time.time_ns()
        self._number += 1
        frame = decode_image(data, f"image {self._number - 1} on standard input")
        return Picture(frame, self._number - 1, time_ns, captured_ns)

    def _next_image(self) -> bytes | None:
        while True:
            start, length = find_image(self._buffer)
            if length:
                data = bytes(self._buffer[start : start + length])
                del self._buffer[: start + length]
                return data
            if len(self._buffer) > self.MAX_IMAGE:
                raise DataError("no JPEG or PNG image in 64 MiB of standard input", "send images, not raw video")
            assert self._stream is not None
            chunk = self._stream.read1(self.CHUNK)
            if not chunk:
                if start < 0 and self._buffer and not self._number:
                    bytes_read = len(self._buffer)
                    self._buffer.clear()
                    raise DataError(f"no JPEG or PNG image in {bytes_read} bytes of standard input", "send images")
                if start < 0:
                    return None
                data = bytes(self._buffer[start:])  # cut off: it will not decode, and is reported
                self._buffer.clear()
                return data
            self._buffer += chunk


def find_image(buffer: bytes | bytearray) -> tuple[int, int]:
    """Where the first JPEG or PNG begins (-1: none) and its length (0: not complete yet)."""
    jpeg, png = buffer.find(b"\xff\xd8\xff"), buffer.find(b"\x89PNG\r\n\x1a\n")
    if png >= 0 and (jpeg < 0 or png < jpeg):
        end = buffer.find(b"IEND\xae\x42\x60\x82", png)
        return png, end + 8 - png if end >= 0 else 0
    if jpeg < 0:
        return -1, 0
    return jpeg, _jpeg_length(buffer, jpeg)


def _jpeg_length(buffer: bytes | bytearray, start: int) -> int:
    """Walk the segments, so that a thumbnail's end inside one isn't taken for the image's."""
    at = start + 2
    while at + 4 <= len(buffer):
        if buffer[at] != 0xFF:
            return 0 if (end := buffer.find(b"\xff\xd9", at)) < 0 else end + 2 - start
        marker = buffer[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == 0xD9:
            return at + 2 - start
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            at += 2
            continue
        at += 2 + int.from_bytes(buffer[at + 2 : at + 4], "big")
        if marker == 0xDA:  # entropy-coded data up to the next marker that is neither stuffing nor restart
            while True:
                at = buffer.find(b"\xff", at)
                if at < 0 or at + 1 >= len(buffer):
                    return 0
                if buffer[at + 1] == 0 or 0xD0 <= buffer[at + 1] <= 0xD7:
                    at += 2
                    continue
                break
    if at + 2 <= len(buffer) and buffer[at : at + 2] == b"\xff\xd9":
        return at + 2 - start
    return 0


def _free_name(folder: Path, name: str) -> Path:
    """A path in the folder, which is made, that overwrites nothing: cameras begin to count anew."""
    folder.mkdir(exist_ok=True)
    path, number = folder / name, 1
    while path.exists():
        number += 1
        path = folder / f"{Path(name).stem}-{number}{Path(name).suffix}"
    return path


def _picture(path: Path, number: int, label: str) -> Picture:
    captured_ns, time_ns = time.monotonic_ns(), time.time_ns()
    return Picture(read_image(path), number, time_ns, captured_ns, label)
