"""Triplets in tar files, and written triplets read back: what `edgead synth` writes, `edgead train` can train on.

A shard is a plain tar in WebDataset's naming: 00000.normal.png, 00000.defective.png, 00000.mask.png, 00000.json.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edge_ad.artifact import write_atomically
from edge_ad.data.images import decode_image, encode_image
from edge_ad.errors import DataError
from edge_ad.synthesis.defects import Frame, Triplet

PARTS = ("normal", "defective", "mask")


def encode_pngs(triplet: Triplet) -> dict[str, bytes]:
    """The triplet as PNGs: normal, defective, mask (0 or 255)."""
    mask = triplet.mask.astype(np.uint8) * 255
    return dict(zip(PARTS, map(encode_image, (triplet.normal, triplet.defective, mask)), strict=True))


class ShardWriter:
    """Writes triplets into `triplets-00000.tar` and so on, `per_shard` in each; a shard appears when it is whole."""

    def __init__(self, out: Path, per_shard: int) -> None:
        self._out, self._per_shard = out, per_shard
        self._open(0)

    def add(self, index: int, triplet: Triplet, record: Mapping[str, Any]) -> dict[str, str]:
        """Add one triplet; returns the shard that it goes into and its names there."""
        if index and index % self._per_shard == 0:
            self.close()
            self._open(index // self._per_shard)
        files = {f"{index:05d}.{name}.png": data for name, data in encode_pngs(triplet).items()}
        for name, data in {**files, f"{index:05d}.json": json.dumps(record).encode()}.items():
            entry = tarfile.TarInfo(name)  # no times or owners: the same triplets give the same bytes
            entry.size = len(data)
            self._tar.addfile(entry, io.BytesIO(data))
        return {"shard": self._name, **dict(zip(PARTS, files, strict=True))}

    def close(self) -> None:
        """Write the shard at hand."""
        self._tar.close()
        write_atomically(self._out / self._name, self._data.getvalue())

    def _open(self, number: int) -> None:
        self._name, self._data = f"triplets-{number:05d}.tar", io.BytesIO()
        self._tar = tarfile.open(fileobj=self._data, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115


class WrittenTriplets:
    """The triplets of a folder that `edgead synth` wrote, as files or in shards, read when asked for.

    key: a hash of the manifest, which names every triplet. A training's `TripletSource`.
    Raises DataError when the folder has no manifest or a file in it is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "manifest.json"
        try:
            text = path.read_bytes()
            self._records: list[dict[str, str]] = [dict(record) for record in json.loads(text)["triplets"]]
            if not all(isinstance(record[part], str) for record in self._records for part in PARTS):
                raise TypeError("a triplet without its pictures")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{folder} holds no finished triplets: {path.name} is missing or damaged ({error})",
                "write them with `edgead synth DATA --out FOLDER`",
            ) from error
        if not self._records:
            raise DataError(f"{folder} holds no triplets", "write some with `edgead synth DATA --out FOLDER`")
        self.key = hashlib.sha256(text).hexdigest()
        self._places: dict[str, dict[str, tuple[int, int]]] = {}

    own_normals = True

    def __len__(self) -> int:
        return len(self._records)

    @property
    def count(self) -> int:
        """How many triplets there are."""
        return len(self._records)

    def draw(self, index: int, frames: object = None) -> Triplet:
        """Triplet `index` modulo their number; frames to draw on aren't needed."""
        return self[index % len(self)]

    def __getitem__(self, number: int, /) -> Triplet:
        record = self._records[number]
        normal, defective, mask = (self._picture(record, part) for part in PARTS)
        return Triplet(normal, defective, mask[..., 0] > 127)

    def _picture(self, record: Mapping[str, Any], part: str) -> Frame:
        try:
            return decode_image(self._bytes(record, part), record[part])
        except (OSError, KeyError, tarfile.TarError, DataError) as error:
            raise DataError(
                f"the {part} picture of triplet {record.get('index')} in {self.folder} can't be read: {error}",
                "write the triplets anew with `edgead synth`",
            ) from error

    def _bytes(self, record: Mapping[str, Any], part: str) -> bytes:
        if "shard" not in record:
            return (self.folder / record[part]).read_bytes()
        shard = self.folder / record["shard"]
        if record["shard"] not in self._places:
            with tarfile.open(shard) as tar:
                self._places[record["shard"]] = {m.name: (m.offset_data, m.size) for m in tar.getmembers()}
        offset, size = self._places[record["shard"]][record[part]]
        with shard.open("rb") as file:
            file.seek(offset)
            return file.read(size)
