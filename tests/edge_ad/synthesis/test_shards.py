import tarfile

import numpy as np
import pytest

from edge_ad.errors import DataError
from edge_ad.synthesis.dataset import write_triplets
from edge_ad.synthesis.defects import VISIBLE
from edge_ad.synthesis.procedural import ProceduralDefects
from edge_ad.synthesis.shards import WrittenTriplets


class Frames:
    """Three normal frames from memory, with the names that the manifest wants."""

    def __init__(self, folder):
        self.paths = [folder / f"{number}.png" for number in range(3)]
        rng = np.random.default_rng(0)
        self.frames = [rng.integers(90, 120, (48, 64, 3), dtype=np.uint8) for _ in self.paths]

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, number):
        return self.frames[number]


def write(out, **more):
    return write_triplets(out, Frames(out), [(ProceduralDefects(), 1.0)], 5, **more)


def test_triplets_with_a_fault_are_drawn_again_and_counted(tmp_path):
    faults = iter(["odd", "odd", *[None] * 5])
    assert write(tmp_path / "some", fault=lambda triplet: next(faults))["rejected"] == {"odd": 2}
    with pytest.raises(DataError, match="8 triplets in a row were rejected"):
        write(tmp_path / "none", fault=lambda triplet: "odd")


def test_shards_hold_the_same_triplets_as_files(tmp_path):
    write(tmp_path / "files")
    manifest = write(tmp_path / "shards", per_shard=2)
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == [
        "contact_sheet.png",
        "manifest.json",
        *(f"triplets-0000{number}.tar" for number in range(3)),
    ]
    assert [record["shard"][-5] for record in manifest["triplets"]] == list("00112")
    files, shards = WrittenTriplets(tmp_path / "files"), WrittenTriplets(tmp_path / "shards")
    assert len(files) == len(shards) == 5
    for number in (4, 0, 3, 1, 2):  # in any order
        for one, other in zip(files[number], shards[number], strict=True):
            np.testing.assert_array_equal(one, other)
        normal, defective, mask = shards[number]
        assert mask.any()
        assert (np.abs(normal.astype(int) - defective).max(axis=2)[~mask] < VISIBLE).all()


def test_a_shard_is_a_plain_tar_and_the_same_each_time(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / name, per_shard=3)
    first = tmp_path / "one" / "triplets-00000.tar"
    assert first.read_bytes() == (tmp_path / "two" / "triplets-00000.tar").read_bytes()
    with tarfile.open(first) as tar:
        names = tar.getnames()
    parts = ("normal.png", "defective.png", "mask.png", "json")
    assert names == [f"{index:05d}.{part}" for index in range(3) for part in parts]


def test_damage_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no finished triplets"):
        WrittenTriplets(tmp_path)
    write(tmp_path, per_shard=3)
    shard = tmp_path / "triplets-00001.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    written = WrittenTriplets(tmp_path)
    written[0]
    with pytest.raises(DataError, match=r"picture of triplet 3 in .* (can't be read|is damaged)"):
        written[3]


@pytest.mark.parametrize("text", ["[1]", '{"triplets": null}', '{"triplets": [3]}', '{"triplets": [{"index": 0}]}'])
def test_a_manifest_that_names_no_pictures_is_an_error_at_once(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match="no finished triplets"):
        WrittenTriplets(tmp_path)
