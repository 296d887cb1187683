"""Image files: a folder, a watched folder, standard input."""

from __future__ import annotations

import logging
import math
import os
import select
import sys
import time
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import cast

from edge_ad.data.images import SUFFIXES, decode_image, is_image, read_image
from edge_ad.data.tree import Tree
from edge_ad.errors import DataError
from edge_ad.runtime.settings import SourceSettings
from edge_ad.runtime.sources.base import Picture, Source, SourceLost, Unreadable
from edge_ad.runtime.sources.framing import MAX_IMAGE, ImageFramer, Piece

log = logging.getLogger(__name__)

POLL_S = 0.1
WAIT_S = 0.5  # one wait for news of a watched folder, so that a run ends soon when it is asked to
QUIET_BYTES = 1024  # line ends and padding between images are no news
_SEND = "send images one after the other, for example from `ffmpeg -f image2pipe -c:v mjpeg -`, not raw video"
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
                tree = Tree(self.path)
                # a pipe would be waited for; a link that leads nowhere is a part whose picture is missing
                files = [path for path in tree.images(self.path) if path.is_file() or path.is_symlink()]
                for path, reason in () if self._number else tree.ignored():
                    log.warning("left out: %s: %s", path, reason)
            except OSError as error:
                raise DataError(f"can't list {error.filename}: {error.strerror}", "check its rights") from error
        if not files:
            raise DataError(f"{self.path} holds no images", f"known endings: {' '.join(sorted(SUFFIXES))}")
        self._files = iter(files)

    def read(self) -> Picture | None:
        """The next image; DataError names a broken one."""
        path = next(self._files, None)
        if path is None and self.settings.repeat:
            try:
                self.open()
            except DataError as error:  # the folder was emptied meanwhile
                raise Unreadable(error.message, error.hint) from error
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
        self.longest_s = 4 * settings.timeout_s  # one picture over a slow network, not a server that doesn't answer
        self._number = 0
        self._began: dict[Path, float] = {}  # when they were first seen
        self._seen: dict[Path, tuple[int, int, float]] = {}  # size, mtime, when they were first like that
        self._done: dict[Path, tuple[int, int]] = {}

    def open(self) -> None:
        """Look whether the folder is there. SourceLost: it was removed, or its server is away."""
        if not self.path.is_dir():
            raise SourceLost(f"the watched folder {self.path} is gone", "is its disk or network mounted?")

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
            if now - self._began.setdefault(path, now) > self.settings.timeout_s and present[path][2] == now:
                log.warning("%s is still being written after %.0f s and waits", path, self.settings.timeout_s)
                self._began[path] = math.inf  # said once
        self._seen = present
        self._began = {path: began for path, began in self._began.items() if path in present}
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
    CHUNK = 1 << 18

    def __init__(self, settings: SourceSettings, stream: BufferedIOBase | None = None) -> None:
        self.settings, self.name = settings, "stdin"
        self._stream = stream
        self._framer = ImageFramer()
        self._ended = False
        self._number = self._bytes = 0

    def open(self) -> None:
        """Take standard input. Unreadable: it is closed."""
        if self._stream is None:
            if sys.stdin is None or sys.stdin.closed:
                raise Unreadable("standard input is closed", "pipe pictures into the command, or give another source")
            self._stream = cast("BufferedIOBase", sys.stdin.buffer)

    def read(self) -> Picture | None:
        """The next image; bytes between images are skipped. DataError: an image that is cut off or broken.

        TimeoutError: nothing came for a moment. Unreadable: there is no image in all of it.
        """
        piece = self._next_piece()
        if piece is None:
            return None
        captured_ns, time_ns = time.monotonic_ns(), time.time_ns()
        self._number += 1
        name = f"image {self._number - 1} on standard input"
        if not piece.whole:
            raise DataError(f"{name} is cut short after {len(piece.data):,} bytes", "check what writes them")
        frame = decode_image(piece.data, name)
        return Picture(frame, self._number - 1, time_ns, captured_ns)

    def _next_piece(self) -> Piece | None:
        while (piece := self._framer.next()) is None:
            if self._ended:
                if not self._number:
                    raise Unreadable(f"no JPEG or PNG image in {self._bytes:,} bytes of standard input", _SEND)
                if self._framer.skipped > QUIET_BYTES:
                    log.warning("%s bytes on standard input belong to no image", f"{self._framer.skipped:,}")
                return None
            if self._framer.waiting > MAX_IMAGE:
                raise Unreadable("no JPEG or PNG image in 64 MiB of standard input", _SEND)
            self._read_more()
        return piece

    def _read_more(self) -> None:
        assert self._stream is not None
        try:
            descriptor = self._stream.fileno()
        except (OSError, AttributeError):  # no file: a stream in memory
            chunk = self._stream.read1(self.CHUNK)
        else:  # past Python's buffer, whose lock a thread that waits would hold at the end of the program
            if not select.select([descriptor], [], [], WAIT_S)[0]:
                raise TimeoutError("nothing on standard input")
            chunk = os.read(descriptor, self.CHUNK)
        self._bytes += len(chunk)
        if chunk:
            self._framer.feed(chunk)
        else:
            self._ended = True
            self._framer.finish()


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
