"""Fuzz every framing and decoder of ours with seeded inputs: no hang, no lost part, no growth of memory.

    python tests/benchmarks/fuzz_framing.py --minutes 30 --seed 1
    python tests/benchmarks/fuzz_framing.py --case stream:123456        # one case again, as a failure names it

What must hold, whatever comes between, and in whatever pieces it arrives:
- stream, multipart: every whole picture comes out once, in order, byte for byte; every cut one is one cut piece
- damaged: the same of the whole pictures around damaged ones
- stdin: as many frames and errors as pictures, then an end; noise: any bytes come to an end
- decode: a frame or a DataError; modbus, http: afterwards the server answers a right request
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import resource
import signal
import socket
import struct
import sys
import time
import urllib.error
import urllib.request

import cv2
import numpy as np

from edge_ad.data.headers import size_in_header
from edge_ad.data.images import decode_image
from edge_ad.errors import DataError
from edge_ad.runtime.settings import SourceSettings
from edge_ad.runtime.sinks.modbus_server import ModbusFault, ModbusServer
from edge_ad.runtime.sources.base import Unreadable
from edge_ad.runtime.sources.files import StdinSource
from edge_ad.runtime.sources.framing import ImageFramer, MultipartFramer
from edge_ad.runtime.watch.health import Health, HealthServer

LIMIT_S = 20  # of CPU time for one case; sockets have limits of their own
GROWTH_MB = 96  # after the first minute


def pictures(rng):
    """Small JPEGs and PNGs of many kinds, and one file of each other format that is decoded."""
    made, others = [], []
    for _ in range(60):
        height, width = (int(side) for side in rng.integers(1, 90, 2))
        frame = rng.integers(0, 255, (height, width, 3), np.uint8)
        if rng.random() < 0.3:
            frame = frame[..., 0]
        quality, flag = int(rng.integers(2, 100)), int(rng.integers(0, 2))
        jpeg = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_PROGRESSIVE, flag, cv2.IMWRITE_JPEG_RST_INTERVAL]
        made.append(cv2.imencode(".jpg", frame, [*jpeg, int(rng.integers(0, 9))])[1].tobytes())
        made.append(cv2.imencode(".png", frame, [cv2.IMWRITE_PNG_COMPRESSION, int(rng.integers(0, 9))])[1].tobytes())
    for host in range(0, 40, 2):
        made.append(holding(rng, made[host], made[int(rng.integers(0, 30)) * 2]))
    for suffix in (".bmp", ".tif", ".webp", ".ppm", ".jp2"):
        frame = rng.integers(0, 255, (80, 70, 3), np.uint8)
        others.append(cv2.imencode(suffix, frame)[1].tobytes())
    return made, others


def holding(rng, picture, thumbnail):
    """The picture with another one in it: the thumbnail of Exif data, or in a segment of another kind."""
    body = b"II*\0\x08\0\0\0\0\0\x0e\0\0\0\1\0\1\2\4\0\1\0\0\0\x20\0\0\0\0\0\0\0" + thumbnail
    kind = int(rng.choice([0xE1, 0xE2, 0xED, 0xFE]))
    body = (b"Exif\0\0" if kind == 0xE1 else b"other\0") + body
    return picture[:2] + bytes([0xFF, kind]) + struct.pack(">H", len(body) + 2) + body + picture[2:]


def shortest_cut(picture):
    """From this length on a cut picture is told from its neighbour: not inside a segment that holds another picture.

    Of a thumbnail only Exif data say where it is; from 60 bytes on they are whole.
    """
    if picture[2:3] == b"\xff" and picture[3] in (0xE2, 0xED, 0xFE):
        return 12 + struct.unpack(">H", picture[4:6])[0]
    return 60 if picture[3] == 0xE1 else 8


POOL, OTHERS = pictures(np.random.default_rng(0))


def between(rng):
    """Bytes that hold no start or end of a picture."""
    kind, length = rng.integers(0, 5), int(rng.integers(0, 400))
    if kind == 0:
        return b""
    if kind == 1:
        return bytes(length)
    if kind == 2:
        return b"\r\nContent-Type: image/jpeg\r\n\r\n"
    return bytes(rng.integers(0, 0x88, length, np.uint8))


def damaged(rng, data):
    """The picture with a few bytes overwritten, left out or put in; its first bytes stay."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(8, len(data)))
        kind = rng.integers(0, 3)
        if kind == 0:
            data[at] = int(rng.integers(0, 256))
        elif kind == 1:
            del data[at : at + int(rng.integers(1, 40))]
        else:
            data[at:at] = bytes(rng.integers(0, 256, int(rng.integers(1, 9)), np.uint8))
        if len(data) < 20:
            break
    return bytes(data)


def feed(rng, framer, stream):
    """All pieces, the stream being fed in pieces of random size."""
    found, at, biggest = [], 0, int(rng.choice([1, 17, 500, 70_000]))
    biggest = max(biggest, len(stream) // 3000 + 1)
    while at < len(stream):
        size = int(rng.integers(1, biggest + 1))
        framer.feed(stream[at : at + size])
        at += size
        while piece := framer.next():
            found.append(piece)
    if isinstance(framer, ImageFramer):
        framer.finish()
        while piece := framer.next():
            found.append(piece)
    return found


def parts(rng, broken):
    """A list of (kind, bytes): whole pictures, and cut or damaged ones."""
    made = []
    for _ in range(int(rng.integers(1, 12))):
        data = POOL[int(rng.integers(0, len(POOL)))]
        if rng.random() < 0.4 and broken == "cut":
            made.append(("cut", data[: int(rng.integers(shortest_cut(data), len(data) - 1))]))
        elif rng.random() < 0.4 and broken == "damaged":
            made.append(("damaged", damaged(rng, data)))
        else:
            made.append(("whole", data))
    return made


def check(made, found):
    """Whole pictures in order; without damage also nothing else but the cut ones, each where it stood."""
    if all(kind != "damaged" for kind, _ in made):
        assert [piece.whole for piece in found] == [kind == "whole" for kind, _ in made], "kinds of pieces"
        assert [p.data for p in found if p.whole] == [data for kind, data in made if kind == "whole"], "bytes"
        return
    left = iter(piece.data for piece in found if piece.whole)
    assert all(data in left for kind, data in made if kind == "whole"), "a whole picture is lost"
    assert len(found) >= len(made), "a part without a sign"


def stream(rng):
    """Pictures one after the other, some cut off."""
    made = parts(rng, "cut")
    check(made, feed(rng, ImageFramer(), between(rng) + b"".join(data + between(rng) for _, data in made)))


def damage(rng):
    """Pictures one after the other, some damaged."""
    made = parts(rng, "damaged")
    check(made, feed(rng, ImageFramer(), b"".join(data + between(rng) for _, data in made)))


def multipart(rng):
    """A multipart body in one of many dialects."""
    broken = "cut" if rng.random() < 0.7 else "damaged"
    made, end = parts(rng, broken), rng.choice([b"\r\n", b"\n"])
    mark = b"--" + bytes(rng.choice([b"frame", b"--myboundary", b"ThisRandomString"]))
    before_mark = bytes(rng.choice([b"", end]))

    def part(data):
        length = int(rng.choice([0, len(data), 5, 10**6]))
        head = [b"Content-Type: image/jpeg"] + ([b"Content-Length: %d" % length] if length else [])
        return mark + end + end.join(head) + end + end + data + before_mark

    body = b"".join(part(data) for _, data in made) + mark + end
    check(made, feed(rng, MultipartFramer(mark.decode().lstrip("-")), body))


def stdin(rng):
    """Standard input from end to end: whole pictures decode, each cut one is one error."""
    made = parts(rng, "cut")
    source = StdinSource(SourceSettings("-"), io.BytesIO(b"".join(data for _, data in made)))
    source.CHUNK = int(rng.choice([1 << 10, 1 << 16]))
    source.open()
    found = []
    while len(found) <= len(made):
        try:
            picture = source.read()
        except DataError:
            found.append("cut")
            continue
        if picture is None:
            break
        found.append("whole")
    assert found == [kind for kind, _ in made], found


def noise(rng):
    """Bytes that mean nothing, with start marks in them, come to an end."""
    data = bytearray(rng.integers(0, 256, int(rng.integers(0, 60_000)), np.uint8).tobytes())
    marks = [
        b"\xff\xd8\xff\xe0",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe1\xff\xffExif\0\0",
        b"\xff\xd9",
        b"--frame\r\n",
    ]
    for _ in range(int(rng.integers(0, 40))):
        at = int(rng.integers(0, len(data) + 1))
        data[at:at] = marks[int(rng.integers(0, len(marks)))]
    feed(rng, MultipartFramer("frame"), bytes(data))
    source = StdinSource(SourceSettings("-"), io.BytesIO(bytes(data)))
    source.open()
    for _ in range(200):
        try:
            if source.read() is None:
                return
        except Unreadable:
            return
        except DataError:
            continue
    raise AssertionError("no end")


def decode(rng):
    """A damaged file of any format is a frame or a DataError."""
    pool = POOL if rng.random() < 0.6 else OTHERS
    data = damaged(rng, pool[int(rng.integers(0, len(pool)))])
    if rng.random() < 0.3:
        data = data[: int(rng.integers(0, len(data)))]
    size = size_in_header(data)
    if size and size[0] * size[1] > 1 << 24:
        return  # the decoder may ask for gigabytes; what it refuses is tested elsewhere
    with contextlib.suppress(DataError):
        frame = decode_image(data, "case")
        assert frame.ndim == 3, frame.shape
        assert frame.dtype == np.uint8, frame.dtype


class Device:
    """A PLC's view with nothing behind it."""

    def read_bits(self, table, address, count):
        return [bool(n & 1) for n in range(count)]

    def read_registers(self, table, address, count):
        if address + count > 1000:
            raise ModbusFault(2)
        return [address] * count

    def write_bits(self, address, values):
        pass

    def write_registers(self, address, values):
        pass


SERVERS = {}


def server(name):
    """One of each for all cases."""
    if name not in SERVERS:
        SERVERS[name] = ModbusServer(Device(), port=0) if name == "modbus" else HealthServer(Health(), port=0)
    return SERVERS[name]


def modbus(rng):
    """Requests in pieces of any size are each answered once; noise ends its own connection only."""
    port = server("modbus").port
    with socket.create_connection(("127.0.0.1", port), timeout=60) as peer, contextlib.suppress(OSError):
        peer.sendall(bytes(rng.integers(0, 256, int(rng.integers(1, 300)), np.uint8)))
    with socket.create_connection(("127.0.0.1", port), timeout=60) as peer:
        asked = [int(number) for number in rng.integers(0, 65536, int(rng.integers(1, 8)))]
        code = bytes([int(rng.choice([1, 2, 3, 4]))])
        sent = b"".join(struct.pack(">HHHB", number, 0, 6, 1) + code + struct.pack(">HH", 7, 3) for number in asked)
        for at in range(0, len(sent), 5):
            peer.sendall(sent[at : at + 5])
        answers = peer.makefile("rb")
        for number in asked:
            transaction, protocol, length, _ = struct.unpack(">HHHB", answers.read(7))
            assert (transaction, protocol) == (number, 0), "another request's answer"
            assert len(answers.read(length - 1)) == length - 1, "cut short"


def http(rng):
    """Noise instead of a request, or half of one, holds up nobody."""
    port = server("http").port
    with socket.create_connection(("127.0.0.1", port), timeout=60) as peer, contextlib.suppress(OSError):
        start = rng.choice(
            [b"", b"GET /healthz HTTP/1.1\r\n", b"HEAD / HTTP/1.0\r\nX: ", b"POST /healthz HTTP/1.1\r\n"]
        )
        peer.sendall(bytes(start) + bytes(rng.integers(0, 256, int(rng.integers(0, 300)), np.uint8)))
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=60).close()


CASES = {
    "stream": stream,
    "damaged": damage,
    "multipart": multipart,
    "stdin": stdin,
    "noise": noise,
    "decode": decode,
}
CASES |= {"modbus": modbus, "http": http}


def run(name, seed):
    """One case; what went wrong in words, empty when nothing."""

    def late(*_):
        raise TimeoutError(f"more than {LIMIT_S} s of CPU")

    signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    try:
        CASES[name](np.random.default_rng(seed))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return ""


def memory_mb():
    """Resident now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def main():
    """Run until the time is over; exit code 1 when anything failed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=float, default=30)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--case", help="NAME:SEED, one case again")
    chosen = options.parse_args()
    if chosen.case:
        name, _, seed = chosen.case.partition(":")
        CASES[name](np.random.default_rng(int(seed)))
        return 0
    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
    begun = told = time.monotonic()
    counts, failed, slowest = collections.Counter(), [], collections.Counter()
    base, number = None, chosen.seed * 1_000_000
    while time.monotonic() < begun + 60 * chosen.minutes and len(failed) < 20:
        for name in CASES:
            number += 1
            started = time.process_time()
            if words := run(name, number):
                failed.append(f"{name}:{number} {words}")
                print(failed[-1], flush=True)
            counts[name] += 1
            slowest[name] = max(slowest[name], time.process_time() - started)
        if time.monotonic() > told + 60:
            told, base = time.monotonic(), base or memory_mb()
            total = counts.total()
            print(
                f"{(told - begun) / 60:.0f} min, {total} cases, {len(failed)} failed, {memory_mb():.0f} MB",
                flush=True,
            )
    growth = memory_mb() - (base or memory_mb())
    for name, count in counts.items():
        print(f"{name:10} {count:9,} cases, slowest {slowest[name]:.2f} s of CPU")
    print(f"seed {chosen.seed}: {counts.total():,} cases, {len(failed)} failed, memory grew by {growth:.0f} MB")
    return 1 if failed or growth > GROWTH_MB else 0


if __name__ == "__main__":
    sys.exit(main())
