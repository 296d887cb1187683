"""The benchmark beside the peers: who trains and tests on what, what is measured of it, and what the tables say."""

import csv
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

FIELD = Path(__file__).parent / "benchmarks" / "field"


@pytest.fixture
def field(monkeypatch):
    """(run, table): the scripts as modules."""
    pytest.importorskip("timm")
    monkeypatch.syspath_prepend(str(FIELD))
    names = ("job", "weights", "run", "table")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    import run
    import table

    yield run, table
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def category(tmp_path, write_photos):
    """12 photos to train on, 3 good and 4 defective ones to test on, each of these with a mask at its left end."""
    folder = tmp_path / "part"
    write_photos(folder / "train" / "good", 12)
    write_photos(folder / "test" / "good", 3, seed=1)
    for path in write_photos(folder / "test" / "hole", 4, seed=2):
        mask = np.zeros((72, 96), np.uint8)
        mask[20:50, 5:25] = 255
        target = folder / "ground_truth" / "hole" / f"{path.stem}_mask.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), mask)
    return folder


def test_few_photos_are_drawn_by_the_seed(field, category):
    run, _ = field
    first, test = run.choose_photos(category, 4, 0, contaminated=False)
    assert len(set(first)) == 4
    assert len(test) == 7
    assert run.choose_photos(category, 4, 0, contaminated=False)[0] == first
    assert run.choose_photos(category, 4, 1, contaminated=False)[0] != first


def test_what_contaminates_is_not_tested(field, category):
    run, _ = field
    train, test = run.choose_photos(category, 0, 0, contaminated=True)
    spoilt = [path for path in train if "/hole/" in path]
    assert (len(train), len(spoilt), len(test)) == (13, 1, 6)
    assert spoilt[0] not in {str(sample.path) for sample in test}


def test_a_turned_photo_has_a_turned_mask_and_others_their_own(field, category, tmp_path):
    run, _ = field
    test = run.choose_photos(category, 0, 0, contaminated=False)[1]
    clean = run.disturbed(test, "clean", tmp_path / "x")
    assert clean.files == [str(sample.path) for sample in test]
    assert clean.labels == [0] * 3 + [1] * 4
    assert not clean.masks[0].any()
    turned = run.disturbed(test, "3 degrees", tmp_path / "x")
    darker = run.disturbed(test, "20 % darker", tmp_path / "x")
    np.testing.assert_array_equal(darker.masks[5], clean.masks[5])
    assert 0 < (turned.masks[5] != clean.masks[5]).mean() < 0.05
    light, dark = (cv2.imread(one.files[5]).mean() for one in (clean, darker))
    assert dark == pytest.approx(0.8 * light, rel=0.02)


def test_figures_come_from_scores_and_maps(field, category, tmp_path):
    run, _ = field
    test = run.disturbed(run.choose_photos(category, 0, 0, contaminated=False)[1], "clean", tmp_path)
    maps = np.stack([mask.astype(np.float32) for mask in test.masks])
    np.savez(tmp_path / "clean.npz", scores=np.array([0, 1, 2, 1.5, 3, 4, 5.0]), maps=maps)
    figures = run.figures_of(tmp_path / "clean.npz", test)
    assert figures["i_auroc"] == pytest.approx(11 / 12)
    assert (figures["p_auroc"], figures["aupro"]) == (1, pytest.approx(1))
    assert run.figures_of(tmp_path / "none.npz", test) == dict.fromkeys(run.FIGURES)
    unmasked = test._replace(masks=[*test.masks[:-1], None])
    assert run.figures_of(tmp_path / "clean.npz", unmasked)["aupro"] is None
    np.savez(tmp_path / "clean.npz", scores=np.full(7, np.nan), maps=maps)
    with pytest.raises(RuntimeError, match="no numbers"):
        run.figures_of(tmp_path / "clean.npz", test)


def row(method, i_auroc="90.00", **values):
    return {
        "category": "part", "method": method, "shots": "0", "seed": "0", "condition": "clean", "load": "1.0",
        "threads": "2", "train": "12", "i_auroc": i_auroc, "p_auroc": "", "aupro": "80.00", "f1_max": "90.00",
        "fit_s": "10.0", "peak_mb": "900.0", "size_mb": "70.0", "torch_ms": "50.0", "onnxruntime_ms": "40.0",
        "openvino_ms": "30.0", "image_size": "392x392", "weights": "w", "note": "",
    } | values  # fmt: skip


def test_the_page_says_where_a_peer_wins_and_keeps_back_busy_times(field):
    _, table = field
    rows = [
        row("edgead quick"),
        row("patchcore", "93.00", load="9.0", seed="0"),
        row("patchcore", "95.00", load="9.0", seed="1"),
        row("edgead quick", "88.00", condition="blur"),
        row("edgead quick", "70.00", shots="2"),
        row("efficient_ad", "", aupro="", f1_max="", note="weights not available: a download"),
    ]
    page = table.page(rows)
    assert "| part | patchcore | 94.0 | - | 80.0 | 90.0 | 2 | 12 | w |" in page
    assert "**Where a peer wins**: patchcore is ahead on part in I-AUROC by 4.0 points." in page
    assert "| edgead quick | 10 | 900 | 70 | 50 | 40 | 30 | 392x392 |  |" in page
    assert "| patchcore | - | 900 | 70 | - | - | - | 392x392 |  |" in page  # something else ran meanwhile
    assert "| part | edgead quick | 90.0 / 80.0 | 88.0 / 80.0 |" in page
    assert "| part | edgead quick | 70.0 / 80.0 |" in page
    assert "`efficient_ad` has no row: weights not available: a download." in page
    assert table.page([row("edgead quick", shots="2")]).startswith("### From a few photos")
    assert table.page([]) == "No row has been measured yet."
    assert "No peer that was measured is ahead" in table.page(rows[:1])


def test_the_plot_has_a_mark_for_each_quiet_time(field):
    pytest.importorskip("matplotlib")
    _, table = field
    assert "<svg" in table.plot([row("edgead quick"), row("patchcore", load="9.0")])
    assert table.plot([row("patchcore", load="9.0")]) == ""


def test_the_docs_show_what_was_recorded(field):
    _, table = field
    shown = table.PAGE.read_text(encoding="utf-8").partition(table.BEGIN)[2].partition(table.END)[0]
    assert shown.strip() == table.page(table.read(table.RESULTS)).strip()


def test_every_row_has_the_columns_of_today(field):
    run, table = field
    with table.RESULTS.open(newline="", encoding="utf-8") as file:
        assert tuple(next(csv.reader(file))) == run.FIELDS
