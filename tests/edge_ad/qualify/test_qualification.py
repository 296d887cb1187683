"""`edgead qualify`, whole: photos in, one report in three forms out, and its proof."""

import json
import subprocess

import cv2
import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")
pytest.importorskip("fpdf")
pytest.importorskip("cryptography")

from edge_ad.artifact import PHOTOS, photo_key
from edge_ad.cli import main
from edge_ad.data.changes import person
from edge_ad.data.feedback import Known, add
from edge_ad.data.images import write_image
from edge_ad.errors import DataError
from edge_ad.qualify.identity import verify
from edge_ad.qualify.study import read_repeats
from edge_ad.runtime.sinks.store import Store


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


@pytest.fixture
def photos(parts, tmp_path):
    """good/ and bad/ with masks, and repeats/: two good and two bad parts shown three times."""
    good, bad, masks = parts
    for i, frame in enumerate(good):
        write_image(tmp_path / "data" / "good" / f"{i:03}.png", frame)
    for i, (frame, mask) in enumerate(zip(bad, masks, strict=True)):
        write_image(tmp_path / "data" / "bad" / "spot" / f"{i:03}.png", frame)
        write_image(tmp_path / "data" / "masks" / "bad" / "spot" / f"{i:03}.png", mask.astype(np.uint8) * 255)
    rng = np.random.default_rng(3)
    for name, frames in (("good", good), ("bad", bad)):
        for i in range(2):
            for shot in range(3):
                noisy = np.clip(frames[i].astype(int) + rng.normal(0, 2, frames[i].shape), 0, 255).astype(np.uint8)
                write_image(tmp_path / "repeats" / name / f"part{i}" / f"{shot}.png", noisy)
    return tmp_path / "data"


@pytest.fixture
def calibrated(small_artifact, photos, capsys):
    assert run("calibrate", small_artifact.path, "--normals", photos / "good", "--false-alarms", "0.05") == 0
    capsys.readouterr()
    return small_artifact.path


def test_one_report_with_the_same_figures_in_three_forms(calibrated, photos, tmp_path, capsys):
    key = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True, capture_output=True)
    with Store(tmp_path / "verdicts.sqlite") as store:
        store.add_event("camera", "golden-part", "a part")
        store.add_event("camera", "golden-released", "released by Eve: lamp changed", {"by": "Eve"})
        store.add_event("camera", "labelled", "part 7 was called defect on the page")
    add(calibrated, "bad", photos / "bad" / "spot" / "000.png", Known(by="Ada", note="complaint 12"))
    out = tmp_path / "report"
    options = [
        "--store",
        store.path,
        "--bad",
        photos,
        "--repeats",
        tmp_path / "repeats",
        "--photos",
        12,
        "--trials",
        12,
        "--cycle-ms",
        1000,
    ]
    code = run("qualify", calibrated, "--good", photos, *options, "--mm-per-pixel", 0.5, "--out", out, "--sign", key)
    printed, _ = capsys.readouterr()
    assert code == 0
    report = json.loads((out / "report.json").read_text())
    html, pdf = (out / "report.html").read_text(), (out / "report.pdf").read_bytes()
    brief = json.loads(printed)
    assert brief["threshold"] == report["threshold"]

    alarms = report["false_alarms"]
    assert alarms["measured"]["parts"] == 40
    assert alarms["measured"]["alarms"] == 1  # rank 39 of 40
    assert alarms["calibrated_on"] == 40
    assert alarms["regions"][0][0]["parts"] == 40
    spots = report["real"]["kinds"]["spot"]
    assert spots["parts"] == 20
    assert spots["missed"] == sum(not hit for hit in spots["found"])
    assert max(spots["sizes"]) < 64
    assert report["steadiness"]["parts"] == 4
    assert report["steadiness"]["shots"] == 12
    assert (report["steadiness"]["good"], report["steadiness"]["bad"]) == (2, 2)
    rows = report["probes"]["rows"]
    assert [row["limit"]["trials"] for row in rows] == [12] * 6
    assert {place["photos"] for place in report["map"]["places"]} == {3}
    assert report["robustness"]["good"] == 12
    assert {row["name"] for row in report["robustness"]["rows"]} >= {"blur", "noise", "JPEG", "rotation"}
    assert report["speed"]["parts"] == 200
    assert report["identity"]["photos"]["good"] == {
        "count": 40, "different": 40, "sha256": report["identity"]["photos"]["good"]["sha256"],
    }  # fmt: skip

    accepted = report["accepted"]
    assert {(row["by"], row["kind"]) for row in accepted["rows"]} == {
        (person(), "calibrate"), ("Eve", "golden-released"), ("operator page", "labelled"),
        ("Ada", "confirmed miss filed"),
    }  # fmt: skip
    times = [row["time"] for row in accepted["rows"]]
    assert times == sorted(times)
    assert accepted["routine"] == {"golden-part": 1}
    assert report["effort"] == {"name": "normal", "photos": 12, "trials": 12, "cells": 8, "every_strength": False}
    for text in ("camera: released by Eve: lamp changed", "bad/000.png: complaint 12", "golden-part 1 times"):
        assert text in html

    assert pdf.startswith(b"%PDF")
    for text in (
        report["sha256"],
        "optical limit, not a miss rate",
        "What was not measured",
        f"{spots['missed']} of 20",
    ):
        assert text in html
    assert "http" not in html  # nothing outside of it
    assert run("qualify", "--verify", out / "report.json", "--key", report["public_key"]) == 0
    assert "unchanged since it was signed" in capsys.readouterr().out

    report["real"]["kinds"]["spot"]["missed"] += 1
    (out / "report.json").write_text(json.dumps(report))
    assert run("qualify", "--verify", out / "report.json") == 1
    assert "changed after it was written" in capsys.readouterr().err


def test_what_was_not_measured_is_named_first(calibrated, photos, tmp_path, capsys):
    out = tmp_path / "report"
    skipped = "probes,map,robustness,speed"
    assert run("qualify", calibrated, "--good", photos / "good", "--skip", skipped, "--out", out) == 0
    html = (out / "report.html").read_text()
    first = html[: html.index("<hr>")]
    for text in (
        "real defects",
        "detection limit",
        "Steadiness",
        "light, lens or fixture",
        "Speed",
        "millimetres",
        "on the line",
    ):
        assert text in first
    assert run("qualify", "--verify", out / "report.json") == 0
    assert "not signed" in capsys.readouterr().out
    assert run("qualify", "--verify", out / "report.json", "--key", "ab") == 1


def test_photos_that_training_saw_prove_nothing(calibrated, photos, tmp_path, capsys):
    from edge_ad.artifact import Artifact

    keys = [photo_key(path) for path in sorted((photos / "good").iterdir())]
    Artifact.open(calibrated).add(PHOTOS, "\n".join(keys[:30]).encode())
    skipped = "probes,map,robustness,speed"
    assert run("qualify", calibrated, "--good", photos / "good", "--skip", skipped, "--out", tmp_path / "r") == 0
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["good_left_out"] == 30
    assert report["false_alarms"]["measured"]["parts"] == 10
    Artifact.open(calibrated).add(PHOTOS, "\n".join(keys).encode())
    assert run("qualify", calibrated, "--good", photos / "good", "--skip", skipped, "--out", tmp_path / "r") == 1
    assert "were trained on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "needs photos of good parts"),
        (["--verify", "nowhere.json"], "can't read nowhere.json"),
        (["{artifact}", "--good", "{good}"], "has no threshold"),
        (["{artifact}", "--good", "{good}", "--skip", "sleep"], "--skip sleep"),
        (["{artifact}", "--good", "{good}", "--effort", "lazy"], "use one of: quick, normal, thorough"),
    ],
)
def test_what_cannot_be_done_is_said(small_artifact, photos, arguments, says, capsys):
    names = {"{artifact}": small_artifact.path, "{good}": photos / "good"}
    assert run("qualify", *(names.get(word, word) for word in arguments)) == 1
    assert says in " ".join(capsys.readouterr().err.split())


def test_a_forged_signature_is_found():
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    from edge_ad.qualify.identity import sign_report

    def pem(folder, name):
        key = Ed25519PrivateKey.generate()
        path = folder / name
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return path

    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        one, other = (sign_report({"figure": 1}, pem(Path(folder), name)) for name in ("a.pem", "b.pem"))
    assert "unchanged" in verify(one, one["public_key"])
    with pytest.raises(DataError, match="signed by"):
        verify(one, other["public_key"])
    with pytest.raises(DataError, match="does not fit"):
        verify({**one, "signature": other["signature"]})


def test_parts_are_told_apart_by_their_folders(tmp_path):
    for name in ("good/a/1.png", "good/a/2.png", "bad_7/1.png", "x/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((9, 9), np.uint8))
    found = [(name, bad, len(shots)) for name, bad, shots in read_repeats(tmp_path)]
    assert found == [("bad_7", True, 1), ("good/a", False, 2), ("x", None, 1)]
    with pytest.raises(DataError, match="no parts"):
        read_repeats(tmp_path / "good" / "a")
