import hashlib
import json
import shutil

import cv2
import numpy as np
import pytest

from edge_ad.cli import main
from edge_ad.data.images import read_image
from edge_ad.data.masks import read_mask
from edge_ad.data.samples import scan
from edge_ad.synthesis.defects import VISIBLE


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    """Twelve photos of dark discs on a light background, 80x96."""
    folder = tmp_path_factory.mktemp("disc")
    (folder / "train" / "good").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(12):
        frame = np.full((80, 96, 3), 220, np.uint8)
        cv2.circle(frame, (48, 40), 26, (60, 70, 90), -1, cv2.LINE_AA)
        cv2.circle(frame, (48, 40), int(rng.integers(10, 14)), (90, 100, 120), 2, cv2.LINE_AA)
        noisy = np.clip(frame + rng.normal(0, 4, frame.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / "train" / "good" / f"{number:03d}.png"), noisy)
    return folder


def synth(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["synth", *map(str, arguments)])
    return ended.value.code


def hashes(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "ddpm/state" not in str(path.relative_to(folder))
    }


def test_triplets_are_a_folder_that_scan_reads(product, tmp_path, capsys):
    out = tmp_path / "out"
    assert synth(product, "--out", out, "--source", "procedural:1,texture:1", "--count", 10, "--size", 96) == 0
    assert capsys.readouterr().out.strip() == str(out / "contact_sheet.png")
    manifest = json.loads((out / "manifest.json").read_text())
    assert sum(manifest["by_source"].values()) == len(manifest["triplets"]) == 10
    for record in manifest["triplets"]:
        normal, defective = (read_image(out / record[name]) for name in ("normal", "defective"))
        mask = read_mask(out / record["mask"])
        assert mask.any()
        assert (cv2.absdiff(normal, defective).max(axis=2)[~mask] < VISIBLE).all()
    dataset = scan(out)
    assert len(dataset.train) == 10
    assert all(sample.mask_path is not None for sample in dataset.test if sample.label)
    assert read_image(out / "contact_sheet.png").shape[2] == 3


def test_same_seed_same_files(product, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        options = ("--source", "texture:1,procedural:1", "--count", 4, "--size", 64, "--seed", seed)
        assert synth(product, "--out", tmp_path / name, *options) == 0
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    assert hashes(tmp_path / "a") != hashes(tmp_path / "c")


def test_diffusion_is_trained_reused_and_mended(product, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    out = tmp_path / "out"
    options = ("--source", "ddpm", "--count", 3, "--size", 64, "--resolution", 32, "--steps", 3, "--images", 2)
    command = (product, "--out", out, *options, "--device", "cpu")
    assert synth(*command) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["by_source"] == {"ddpm": 3}
    assert manifest["ddpm"]["step"] == 3
    assert (out / "ddpm" / "sheets" / "step-00000003.png").is_file()
    before = hashes(out)
    capsys.readouterr()

    image = sorted((out / "ddpm" / "generated").glob("*.png"))[0]
    image.write_bytes(b"not a picture")
    assert synth(*command) == 0
    assert "sha256 differs" in capsys.readouterr().err.replace("\n", " ")
    assert hashes(out) == before

    capsys.readouterr()
    other_size = ("--source", "ddpm", "--count", 1, "--size", 48, "--resolution", 32, "--steps", 3, "--images", 2)
    model = ("--ddpm", out / "ddpm", "--device", "cpu", "--seed", 0)
    assert synth(product, "--out", tmp_path / "other", *other_size, *model) == 0  # the same model serves
    said = capsys.readouterr().err
    assert "reused" in said
    assert "other photos" not in said
    assert hashes(out) == before

    fewer = shutil.copytree(product, tmp_path / "fewer")
    (fewer / "train" / "good" / "000.png").unlink()
    assert synth(fewer, "--out", tmp_path / "third", *other_size, *model) == 0
    assert "trained on other photos" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--source", "dpm"), "unknown source"),
        (("--strength", "high"), "no range"),
        (("--resolution", "48"), "no diffusion model for 48"),
        (("--edges", "round"), "round"),
        (("--textures", "nowhere", "--source", "texture"), "no pictures"),
    ],
)
def test_wrong_options_say_what_to_do(product, tmp_path, capsys, options, message):
    assert synth(product, "--out", tmp_path, *options) == 1
    said = capsys.readouterr().err
    assert message in said
    assert "hint:" in said


def test_photos_that_can_not_be_read_are_left_out(product, tmp_path, caplog):
    data = shutil.copytree(product, tmp_path / "data")
    (data / "train" / "good" / "005.png").write_bytes(b"no picture")
    options = ("--source", "procedural:1,texture:1", "--count", 12, "--size", 64)
    assert synth(data, "--out", tmp_path / "out", *options) == 0
    assert "005.png" in caplog.text


def test_only_a_folder_of_its_own_is_written_to(product, tmp_path, capsys):
    options = ("--source", "procedural", "--count", 1, "--size", 64)
    data = shutil.copytree(product, tmp_path / "data")
    before = hashes(data)
    assert synth(product, "--out", data, *options) == 1
    assert "something else than synthetic defects" in capsys.readouterr().err
    assert hashes(data) == before
    (tmp_path / "file").write_text("")
    assert synth(product, "--out", tmp_path / "file" / "out", *options) == 1
    assert "can't make the folder" in capsys.readouterr().err
    for _ in range(2):  # its own it writes anew
        assert synth(product, "--out", tmp_path / "out", *options) == 0
    (tmp_path / "out" / "manifest.json").write_text('{"triplets": null}')  # as a killed run leaves it
    assert synth(product, "--out", tmp_path / "out", *options) == 0
