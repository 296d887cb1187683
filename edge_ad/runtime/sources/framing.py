"""Framing: where one picture ends and the next begins in a stream of JPEG and PNG pictures, or in a multipart body.

A picture is walked by its own structure (JPEG segments, PNG chunks), so that a thumbnail inside it isn't taken for a
picture, and so that it can be handed on with its last byte. One that is cut off ends where the next one begins:
that is seen at the next start mark, and the cut piece is handed on as such, never as a picture. Every byte is looked
at a fixed number of times, however it arrives.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

MAX_IMAGE = 64 << 20  # bytes of one picture; one that claims more is wrong
PNG = b"\x89PNG\r\n\x1a\n"
START = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n")
# in coded data: a marker that is neither stuffing nor restart, or a PNG
SCAN_END = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]|\x89PNG\r\n\x1a\n")
# markers that may follow a JPEG's start: frames, tables, application data, comments, fill
FIRST_MARKERS = frozenset((*range(0xC0, 0xD0), *range(0xDB, 0xF0), 0xFE, 0xFF))
SOI, EOI, SOS, APP0, APP1 = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1
# application data and comments hold anything, a quantisation table any numbers; other segments never a start mark
MAY_HOLD_STARTS = frozenset((0xDB, *range(0xE0, 0xF0), 0xFE))
MARK_END = re.compile(rb"(?:--)?[ \t]{0,8}\r?\n")
LONGEST_MARK_END = 12
AFTER = len(PNG)  # bytes from a start on that tell whether it is one


class Piece(NamedTuple):
    """Bytes of one picture. whole: it has a beginning and an end; else `data` is what there is of it."""

    data: bytes
    whole: bool


class _End(NamedTuple):
    """How a walk ended. at: the first byte behind the picture, or where it stops being one."""

    whole: bool
    at: int


class ImageFramer:
    """Pictures out of a stream that is fed piece by piece.

    framer.feed(data); then `next()` until it gives None; after the last byte `finish()`, and `next()` until None.
    skipped: bytes between pictures until now. waiting: bytes since the last picture that held no start of one.
    """

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.skipped = self.waiting = 0
        self._finished = False
        self._walk: _JpegWalk | _PngWalk | None = None

    def feed(self, data: bytes) -> None:
        """Add bytes of the stream."""
        self.buffer += data

    def finish(self) -> None:
        """The stream has ended: a picture that isn't whole by now is cut off."""
        self._finished = True

    def next(self) -> Piece | None:
        """The next picture, or what is left of a cut one; None when more bytes are needed."""
        if self._walk is None:
            start = find_start(self.buffer, finished=self._finished)
            self.skip(start)
            if not is_start(self.buffer, 0):
                return None
            self._walk = _PngWalk() if self.buffer.startswith(PNG) else _JpegWalk()
        end = self._walk.go(self.buffer)
        more = end is None or (not end.whole and len(self.buffer) < end.at + AFTER)
        if more and not self._finished and len(self.buffer) <= MAX_IMAGE:
            return None
        cut_at = self._walk.next_start(self.buffer, end)
        if cut_at is not None:
            return self.take(cut_at, whole=False)
        return self.take(end.at, whole=end.whole) if end else self.take(len(self.buffer), whole=False)

    def take(self, length: int, *, whole: bool) -> Piece:
        """Take the first bytes out of the buffer as a piece; `next` goes on behind it."""
        data = bytes(self.buffer[:length])
        del self.buffer[:length]
        self._walk, self.waiting = None, 0
        return Piece(data, whole)

    def skip(self, length: int) -> None:
        """Drop the first bytes of the buffer, which are no picture's."""
        self.skipped += length
        self.waiting += length
        del self.buffer[:length]


def find_start(buffer: bytearray, *, finished: bool, at: int = 0, stop: int | None = None) -> int:
    """Where the next picture begins before `stop` (default: the end); where there is none, `stop`.

    Unless the stream has finished, a place counts too where one may begin once more bytes are there.
    """
    stop = len(buffer) if stop is None else stop
    while match := START.search(buffer, at, min(stop + AFTER - 1, len(buffer))):
        at = match.start()
        if at >= stop:
            return stop
        if is_start(buffer, at) or (not finished and len(buffer) - at < AFTER):
            return at
        at += 1
    for length in range(min(AFTER - 1, len(buffer) - at) if not finished else 0, 0, -1):
        tail = bytes(buffer[len(buffer) - length :])
        if PNG.startswith(tail) or b"\xff\xd8\xff".startswith(tail):  # a start mark that isn't all there yet
            return min(len(buffer) - length, stop)
    return stop


def is_start(buffer: bytearray, at: int) -> bool:
    """Whether a picture begins here: a start mark, in a JPEG with a marker and a length that may stand behind it."""
    head = buffer[at : at + 6]
    if len(head) < 6 or not head.startswith(b"\xff\xd8\xff") or head[3] not in FIRST_MARKERS:
        return buffer.startswith(PNG, at)
    return head[3] == 0xFF or int.from_bytes(head[4:6], "big") >= 2


@dataclass
class _JpegWalk:
    """A walk over a JPEG's segments, which goes on where it stood when more bytes are there.

    strict: application data behind coded data ends it (an embedded picture in several segments of another one).
    """

    start: int = 0
    strict: bool = False
    at: int = 0
    in_scan: bool = False  # in coded data
    seen_scan: bool = False
    segments: list[tuple[int, int]] = field(default_factory=list)  # walked over: from, to

    def __post_init__(self) -> None:
        self.at = self.start + 2

    def go(self, buffer: bytearray) -> _End | None:
        """Walk on: the end, or None when more bytes are needed."""
        while True:
            if self.in_scan:
                match = SCAN_END.search(buffer, self.at)
                if match is None:
                    self.at = max(self.at, len(buffer) - AFTER + 1)
                    return None
                self.at, self.in_scan = match.end() - 2, False
                if match[0] == PNG:
                    return self._stop(match.start())
            if buffer[self.at : self.at + 2] == b"\xff\xd9":
                return _End(True, self.at + 2) if self.seen_scan else self._stop(self.at)
            if self.at + AFTER > len(buffer):
                return None
            if buffer[self.at] != 0xFF:
                return self._stop(self.at)
            marker = buffer[self.at + 1]
            if marker == 0xFF:
                self.at += 1
            elif is_start(buffer, self.at):
                return self._stop(self.at)
            elif marker < 0xC0 or 0xD0 <= marker <= SOI or (self.seen_scan and APP0 <= marker <= 0xEF):
                if not self.seen_scan or self.strict:
                    return self._stop(self.at)
                self.at += 1  # damage inside coded data: the decoder judges it
                self.in_scan = True
            else:
                end = self.at + 2 + max(int.from_bytes(buffer[self.at + 2 : self.at + 4], "big"), 2)
                if end > len(buffer):
                    return None
                self.segments.append((self.at, end))
                self.at = end
                self.in_scan = marker == SOS
                self.seen_scan |= self.in_scan

    def _stop(self, at: int) -> _End:
        self.at = at  # so that walking on stops here again
        return _End(False, at)

    def next_start(self, buffer: bytearray, end: _End | None) -> int | None:
        """Where the next picture begins inside this one, which was cut off there; None: it wasn't.

        A segment of a picture that was cut in its header reaches into the next picture. Where the walk then failed,
        each start in that segment may be the next picture's; where it went on, at a segment of the next picture by
        chance, the next picture is the one that ends where this one does. Thumbnails are neither.
        """
        across = next((span for span in self.segments if self._reaches_across(buffer, span, end)), (0, 0))
        landed = bool(self.segments) and self.segments[-1][1] == self.at  # at what should be a marker
        if across[1] or self.in_scan or (end and end.whole):
            pass
        elif landed and (end or self.at + AFTER > len(buffer)):
            across = self.segments[-1]
        elif end is None:
            across = (self.at, len(buffer))
        thumbnails = set(_thumbnails(buffer, self.start)) if across[1] else set()
        for at in _starts(buffer, *across):
            walk = _JpegWalk(at)
            inner = walk.go(buffer) if at in thumbnails else None
            if at not in thumbnails or (  # a picture at a thumbnail's place: a thumbnail would end inside
                inner and inner.whole and inner.at > across[1] and walk.next_start(buffer, inner) is None
            ):
                return at
        return None

    @staticmethod
    def _reaches_across(buffer: bytearray, span: tuple[int, int], end: _End | None) -> bool:
        """Whether the next picture begins inside this segment, over which the walk stepped."""
        if buffer[span[0] + 1] not in MAY_HOLD_STARTS:
            return any(True for _ in _starts(buffer, *span))
        for at in _starts(buffer, *span):
            inner = _end_of(buffer, at)
            beyond = inner is not None and inner.whole and inner.at > span[1]
            if inner == end or (beyond and not (end and end.whole)):  # an embedded picture ends inside
                return True
        return False


def _end_of(buffer: bytearray, start: int) -> _End | None:
    """How a picture that begins here ends."""
    if buffer[start] == 0xFF:
        return _JpegWalk(start, strict=True).go(buffer)
    end = _PngWalk().go(buffer[start:])
    return end and _End(end.whole, end.at + start)


def _starts(buffer: bytearray, first: int, stop: int) -> Iterator[int]:
    """Where pictures begin behind `first` and before `stop`."""
    at = first
    while (at := find_start(buffer, finished=True, at=at + 1, stop=stop)) < stop:
        yield at


@dataclass
class _PngWalk:
    """The same over a PNG's chunks, each of which has a checksum."""

    at: int = len(PNG)
    looked: int = 0  # coded data before this holds no start of a PNG

    def go(self, buffer: bytearray) -> _End | None:
        """Walk on: the end, or None when more bytes are needed."""
        while self.at + 8 <= len(buffer):
            length, kind = struct.unpack_from(">I4s", buffer, self.at)
            if not kind.isalpha() or length > MAX_IMAGE or (self.at == len(PNG) and (kind, length) != (b"IHDR", 13)):
                return _End(False, self.at)
            end = self.at + 12 + length
            if end > len(buffer):
                if kind == b"IDAT":  # no need to wait for the rest of it
                    inner = buffer.find(PNG, max(self.at, self.looked - AFTER))
                    if inner >= 0:
                        return _End(False, inner)
                    self.looked = len(buffer)
                return None
            (promised,) = struct.unpack_from(">I", buffer, end - 4)
            with memoryview(buffer) as view:
                intact = zlib.crc32(view[self.at + 4 : end - 4]) == promised
            if not intact and find_start(buffer, finished=False, at=self.at, stop=end) < end:
                return _End(False, end)
            self.at = end
            if kind == b"IEND":
                return _End(intact, end)
        return None

    def next_start(self, buffer: bytearray, end: _End | None) -> int | None:
        """As for a JPEG: the first start behind the chunks whose checksum is right."""
        stop = end.at if end else len(buffer)
        inner = find_start(buffer, finished=True, at=self.at, stop=stop)
        return inner if inner < stop and not (end and end.whole) else None


def _thumbnails(buffer: bytearray, start: int) -> Iterator[int]:
    """Where a JPEG's own thumbnails begin, as its Exif data and its JFIF extension say."""
    at = start + 2
    while buffer[at : at + 1] == b"\xff" and at + 4 <= len(buffer):
        marker, body = buffer[at + 1], at + 4
        if marker == APP1 and buffer.startswith(b"Exif\0\0", body):
            yield from _exif_thumbnail(buffer, body + 6)
        elif marker == APP0 and buffer.startswith(b"JFXX\0\x10", body):
            yield body + 6
        elif marker not in range(APP0, 0xF0):
            return
        at += 2 + max(int.from_bytes(buffer[at + 2 : at + 4], "big"), 2)


def _exif_thumbnail(buffer: bytearray, tiff: int) -> Iterator[int]:
    order = {b"II": "<", b"MM": ">"}.get(bytes(buffer[tiff : tiff + 2]))
    if order is None:
        return
    try:
        (first,) = struct.unpack_from(order + "I", buffer, tiff + 4)
        (count,) = struct.unpack_from(order + "H", buffer, tiff + first)
        (second,) = struct.unpack_from(order + "I", buffer, tiff + first + 2 + 12 * count)
        (count,) = struct.unpack_from(order + "H", buffer, tiff + second)
        for entry in range(count if second else 0):
            tag, _, _, value = struct.unpack_from(order + "HHII", buffer, tiff + second + 2 + 12 * entry)
            if tag == 0x0201:  # JPEGInterchangeFormat
                yield tiff + value
    except struct.error:  # cut off before it
        return


class MultipartFramer:
    """The parts of a multipart/x-mixed-replace body, which is motion JPEG: fed and asked like ImageFramer.

    A picture is handed on with its last byte, not only when the next boundary comes. Lengths in part headers are not
    needed and not trusted. A boundary needs no line end before it, and none before the first part; line ends may be
    LF alone. A part without a start of a picture is handed on as a piece that isn't whole.
    """

    def __init__(self, boundary: str) -> None:
        """boundary: as the response's header gives it, with or without quotes and dashes; empty: unknown."""
        self._images = ImageFramer()
        name = boundary.strip('" ').lstrip("-").encode("latin-1", "replace")
        self._mark = b"--" + name if name else b""
        self._looked = 0  # before it there is no boundary
        self._open = False  # a boundary came and no picture since
        self._in_picture = False

    @property
    def waiting(self) -> int:
        """Bytes since the last picture."""
        return len(self._images.buffer)

    def feed(self, data: bytes) -> None:
        """Add bytes of the body."""
        self._images.feed(data)

    def next(self) -> Piece | None:
        """The next part; None when more bytes are needed."""
        buffer = self._images.buffer
        while not self._in_picture:
            start = find_start(buffer, finished=False, at=self._looked)
            mark = self._find_mark(start)
            if mark is None:
                if not is_start(buffer, start):
                    return None
                self._images.skip(start)
                self._in_picture, self._looked = True, 0
                break
            text = bytes(buffer[: mark[0]])
            self._images.skip(mark[1])
            was_open, self._open, self._looked = self._open, True, 0
            if was_open and text.strip():  # empty parts are some servers' signs of life
                return Piece(re.split(rb"\r?\n\r?\n", text, maxsplit=1)[-1], whole=False)
        return self._picture()

    def _picture(self) -> Piece | None:
        piece = self._images.next()
        if piece is None:
            mark = self._find_mark(len(self._images.buffer))
            if mark is None:
                return None
            piece = self._images.take(mark[0], whole=False)
        elif not piece.whole:  # what follows its own boundary is another part's
            self._images.buffer[:0] = piece.data
            self._looked = 0
            mark = self._find_mark(len(piece.data)) or (len(piece.data), 0)
            piece = self._images.take(mark[0], whole=False)
        self._in_picture = self._open = False
        self._looked = 0
        return piece

    def _find_mark(self, stop: int) -> tuple[int, int] | None:
        """From and to of the first boundary before `stop`, its line ends included; None when there is none."""
        buffer, at = self._images.buffer, self._looked
        while self._mark and (at := buffer.find(self._mark, at, stop)) >= 0:
            if match := MARK_END.match(buffer, at + len(self._mark), stop):
                while buffer[at - 1 : at] == b"-":
                    at -= 1
                for end in (b"\n", b"\r"):
                    at -= buffer[max(at - 1, 0) : at].startswith(end)
                return at, match.end()
            at += 1
        self._looked = max(self._looked, stop - len(self._mark) - LONGEST_MARK_END)
        return None
