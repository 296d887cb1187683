"""`edgead bench kernels`: rows only of right results, a file that grows, a picture that opens."""

import csv
import os

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge_ad.bench import kernel_cases as cases  # noqa: E402
from edge_ad.bench import kernel_timing as timing  # noqa: E402
from edge_ad.bench.rows import append_rows  # noqa: E402
from edge_ad.cli import main  # noqa: E402
from edge_ad.errors import BackendError, ConfigError  # noqa: E402

FUSED = cases.Case("fused_score", 2, ((8, 6), (16, 5)))


@pytest.fixture
def setup():
    return timing.Setup.of("cpu", 1, "float32")


FEATURES = [cases.Case(operation, 1, ((8, 5),)) for operation in cases.FEATURES]


@pytest.mark.parametrize(
    "case", [FUSED, *FEATURES, cases.Case("topk_mean", 2), cases.Case("preprocess", frame=(40, 50))]
)
def test_rows_have_every_column_and_ordered_percentiles(case, setup):
    rows = timing.measure(case, setup, only=["cpp", "numpy", "eager"], repeats=3, seconds=0.01)
    assert [row["backend"] for row in rows] == ["cpp", "numpy", "eager"]
    for row in rows:
        assert tuple(row) == timing.COLUMNS
        assert 0 < row["p20_ms"] <= row["p50_ms"] <= row["p80_ms"]
        assert row["gb_per_s"] > 0 < row["of_copy"]
    assert rows[0]["floor_ms"] > 0
    assert rows[2]["vs_eager"] == pytest.approx(1, rel=0.01)


def test_regions_are_compared_with_opencvs(setup):
    rows = timing.measure(cases.Case("find_defects"), setup, only=None, repeats=3, seconds=0.01)
    assert [row["backend"] for row in rows] == ["cpp", "numpy", "opencv"]
    assert (
        len(
            cases.ours(
                cases.Case("find_defects"),
                [x.numpy() for x in cases.inputs(cases.Case("find_defects"), "cpu", "float32")],
            )
        )
        > 5
    )
    assert {row["vs_eager"] for row in rows} == {None}


@pytest.mark.parametrize("operation", ["fused_score", "find_defects", "preprocess"])
def test_a_wrong_result_gives_no_figure(operation, monkeypatch, tmp_path, capsys):
    case = next(case for case in cases.cases(quick=True) if case.operation == operation)
    right = cases.ours

    def wrong(case, given):
        result = right(case, given)
        if given[0].dtype == np.float64 or os.environ["EDGE_AD_BACKEND"] == "cpp":
            return result
        if operation == "fused_score":
            return result._replace(image_score=result.image_score + 1e-3)
        return result[1:] if operation == "find_defects" else result + 0.1

    monkeypatch.setattr(cases, "ours", wrong)
    path = tmp_path / "rows.csv"
    arguments = ["bench", "kernels", "--device", "cpu", "--quick", "--match", f"{operation} {case.shape}"]
    with pytest.raises(SystemExit) as stop:
        main(
            [
                *arguments,
                "--only",
                "numpy",
                "--only",
                "cpp",
                "--csv",
                str(path),
                "--plot",
                str(path.with_suffix(".png")),
            ]
        )
    assert stop.value.code == 1
    printed = capsys.readouterr()
    assert f"numpy is wrong: {operation}" in printed.err
    assert printed.out == ""
    assert (
        "GB/s" not in printed.err.partition("copying")[2].partition("\n")[2]
    )  # not even of the backend that was right
    assert list(tmp_path.iterdir()) == []


def test_a_result_of_nan_is_wrong(setup):
    with pytest.raises(BackendError, match="nan"):
        cases.check("torch", FUSED, torch.full((1,), torch.nan), [np.zeros(1)])


def test_rows_are_appended_and_drawn(setup, tmp_path):
    import cv2

    pytest.importorskip("matplotlib")

    rows = timing.measure(FUSED, setup, only=["numpy", "eager"], repeats=3, seconds=0.01)
    path = tmp_path / "rows" / "kernels.csv"
    append_rows(path, rows, timing.COLUMNS)
    append_rows(path, rows, timing.COLUMNS)
    with path.open() as file:
        read = list(csv.DictReader(file))
    assert len(read) == 4
    assert tuple(read[0]) == timing.COLUMNS
    timing.draw(rows, tmp_path / "kernels.png")
    assert cv2.imread(str(tmp_path / "kernels.png")).mean() < 254
    with pytest.raises(ConfigError, match="can't be written"):
        timing.draw(rows, tmp_path / "kernels.bad")


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
    shapes = cases.cases(quick=False)
    assert {case.batch for case in shapes if not case.large} == {1, 8, 32}
    assert all(cases.runs_on(case, "cpu") != case.large for case in shapes)
    large = [case for case in shapes if case.large]
    assert {case.operation for case in large} == {*cases.FEATURES, "topk_mean"}  # each where memory is what counts
    assert {channels for case in shapes for channels, _ in case.layers} == {192, 384, 768}


def test_large_cases_are_checked_in_part_and_counted_in_whole(monkeypatch):
    monkeypatch.setattr(cases, "LARGE", 1000)
    case, wrong_at = cases.Case("cosine_map", 16, ((8, 4),)), []
    right = cases.ours

    def ours(case, given):
        result = right(case, given)
        if wrong_at and given[0].dtype == np.float32:
            result = result.copy()
            result[wrong_at[0]] += 1e-3
        return result

    monkeypatch.setattr(cases, "ours", ours)
    setup = timing.Setup.of("cpu", 1, "float32")
    (row,) = timing.measure(case, setup, only=["numpy"], repeats=3, seconds=0.01)
    moved = 4 * 16 * (2 * 8 + 1) * 16
    assert row["gb_per_s"] == pytest.approx(moved / row["p50_ms"] / 1e6, rel=1e-2)
    wrong_at.append(3)
    with pytest.raises(BackendError, match="numpy is wrong"):
        timing.measure(case, setup, only=["numpy"], repeats=3, seconds=0.01)
