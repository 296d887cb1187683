"""`edgead bench kernels`: rows only of right results, a file that grows, a picture that opens."""

import csv

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge_ad.cli import kernel_timing as timing  # noqa: E402
from edge_ad.cli import main  # noqa: E402
from edge_ad.errors import BackendError  # noqa: E402

FUSED = timing.Case("fused_score", 2, ((8, 6), (16, 5)))


@pytest.fixture
def setup():
    return timing.Setup.of("cpu", 1, "float32")


@pytest.mark.parametrize("case", [FUSED, timing.Case("cosine_map", 1, ((8, 5),)), timing.Case("topk_mean", 2)])
def test_rows_have_every_column_and_ordered_percentiles(case, setup):
    rows = timing.measure(case, setup, only=["numpy", "eager"], repeats=3, seconds=0.01)
    assert [row["backend"] for row in rows] == ["numpy", "eager"]
    for row in rows:
        assert tuple(row) == timing.COLUMNS
        assert 0 < row["p20_ms"] <= row["p50_ms"] <= row["p80_ms"]
        assert row["gb_per_s"] > 0 < row["of_copy"]
    assert rows[1]["vs_eager"] == pytest.approx(1, rel=0.01)


def test_a_wrong_result_gives_no_figure(setup, monkeypatch):
    right = timing.ours

    def wrong(operation, pairs):
        scores, image_score = right(operation, pairs)
        return scores, image_score + (0 if scores.dtype == np.float64 else 1e-3)

    monkeypatch.setattr(timing, "ours", wrong)
    with pytest.raises(BackendError, match="numpy is wrong: fused_score"):
        timing.measure(FUSED, setup, only=["numpy"], repeats=3, seconds=0.01)


def test_a_result_of_nan_is_wrong(setup):
    with pytest.raises(BackendError, match="nan"):
        timing.check("torch", FUSED, torch.full((1,), torch.nan), [np.zeros(1)])


def test_rows_are_appended_and_drawn(setup, tmp_path):
    import cv2

    rows = timing.measure(FUSED, setup, only=["numpy", "eager"], repeats=3, seconds=0.01)
    path = tmp_path / "rows" / "kernels.csv"
    timing.write_csv(rows, path)
    timing.write_csv(rows, path)
    with path.open() as file:
        read = list(csv.DictReader(file))
    assert len(read) == 4
    assert tuple(read[0]) == timing.COLUMNS
    timing.draw(rows, tmp_path / "kernels.png")
    assert cv2.imread(str(tmp_path / "kernels.png")).shape[1] == 1100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--match", "nothing"], "no case matches"),
        (["--device", "tpu"], "tpu"),
        (["--dtype", "int8"], "int8"),
        (["--dtype", "float16"], "GPU"),
    ],
)
def test_words_that_name_nothing_are_errors(arguments, words, capsys):
    if words == "GPU" and torch.cuda.is_available():
        pytest.skip("half precision is timed where there is a GPU")
    with pytest.raises(SystemExit) as stop:
        main(["bench", "kernels", *arguments])
    assert stop.value.code == 1
    assert words in capsys.readouterr().err


def test_help_is_the_verbs_own(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["bench", "kernels", "--help"])
    assert stop.value.code == 0
    assert "--repeats" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["bench", "kernels", "--repeats", "none"])
    assert stop.value.code == 2


def test_the_shapes_are_those_promised():
    shapes = timing.cases(quick=False)
    assert {case.batch for case in shapes} == {1, 8, 32}
    assert {channels for case in shapes for channels, _ in case.layers} == {192, 384, 768}
