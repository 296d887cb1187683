"""Wrong arguments and bad numbers on every backend: a ValueError that names both sides, or a defined result."""

import numpy as np
import pytest

from edge_ad import kernels
from edge_ad.kernels import reference

BACKENDS = ["numpy", "cpp", "torch"]
NAN, INF = np.nan, np.inf


@pytest.fixture(params=BACKENDS)
def make(request, monkeypatch):
    """Arrays or tensors, for the backend named."""
    monkeypatch.setenv("EDGE_AD_BACKEND", request.param)
    if request.param == "torch":
        return pytest.importorskip("torch").from_numpy
    if reason := kernels.available_backends()[request.param]:
        pytest.skip(reason)
    return lambda array: array


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


WRONG = {
    "three axes": (lambda m: kernels.cosine_map(m(ones(3, 4, 4)), m(ones(3, 4, 4))), "[B,C,h,w]", "[3, 4, 4]"),
    "other shape": (
        lambda m: kernels.cosine_map(m(ones(2, 3, 4, 4)), m(ones(2, 3, 4, 5))),
        "float32 [2, 3, 4, 4]",
        "float32 [2, 3, 4, 5]",
    ),
    "other type": (
        lambda m: kernels.head_input(m(ones(2, 3, 4, 4)), m(ones(2, 3, 4, 4, dtype=np.float16))),
        "float32",
        "float16",
    ),
    "whole numbers": (
        lambda m: kernels.head_input(*[m(ones(2, 3, 4, 4, dtype=np.int32))] * 2),
        "float16",
        "int32 [2, 3, 4, 4]",
    ),
    "no channels": (lambda m: kernels.cosine_map(*[m(ones(2, 0, 4, 4))] * 2), "at least 1", "[2, 0, 4, 4]"),
    "no channels, last": (
        lambda m: kernels.cosine_map(*[m(ones(2, 4, 4, 0))] * 2, channels_last=True),
        "at least 1",
        "[2, 4, 4, 0]",
    ),
    "no channels in a product": (lambda m: kernels.head_input(*[m(ones(2, 0, 4, 4))] * 2), "at least 1", "[2, 0,"),
    "no positions": (lambda m: kernels.fused_score(*[[m(ones(2, 3, 0, 4))]] * 2), "at least 1", "[2, 3, 0"),
    "layers of two batches": (
        lambda m: kernels.fused_score(*[[m(ones(2, 3, 4, 4)), m(ones(1, 3, 4, 4))]] * 2),
        "[2, 3, 4, 4]",
        "[1, 3, 4, 4]",
    ),
    "layers of two types": (
        lambda m: kernels.fused_score(*[[m(ones(2, 3, 4, 4)), m(ones(2, 3, 4, 4, dtype=np.float16))]] * 2),
        "float32",
        "float16",
    ),
    "layers missing": (lambda m: kernels.fused_score([m(ones(2, 3, 4, 4))], []), "as many", "0 student"),
    "k of none": (lambda m: kernels.topk_mean(m(ones(2, 9)), 0), "1 to 9", "0"),
    "k of less than none": (lambda m: kernels.topk_mean(m(ones(2, 9)), -3), "1 to 9", "-3"),
    "k of more than all": (lambda m: kernels.topk_mean(m(ones(2, 9)), 10), "1 to 9", "10"),
    "k of a fraction": (lambda m: kernels.topk_mean(m(ones(2, 9)), 1.5), "1 to 9", "1.5"),
    "k of nothing": (lambda m: kernels.topk_mean(m(ones(2, 0)), 1), "1 to 0", "1"),
    "k of more than the size": (
        lambda m: kernels.fused_score(*[[m(ones(1, 2, 3, 3))]] * 2, size=(4, 4), k=17),
        "1 to 16",
        "17",
    ),
    "one axis of scores": (lambda m: kernels.topk_mean(m(ones(9)), 1), "[B, ...]", "[9]"),
    "maps of four axes": (lambda m: kernels.upsample(m(ones(1, 1, 3, 3)), (6, 6)), "[B,h,w]", "[1, 1, 3, 3]"),
    "maps of nothing": (lambda m: kernels.upsample(m(ones(1, 0, 3)), (6, 6)), "at least 1", "[1, 0, 3]"),
    "no size": (lambda m: kernels.upsample(m(ones(1, 3, 3)), (6, 0)), "at least 1", "0"),
    "sigma that is no number": (
        lambda m: kernels.fused_score(*[[m(ones(1, 2, 3, 3))]] * 2, sigma=NAN),
        "0 to 256",
        "nan",
    ),
    "weights that are no numbers": (
        lambda m: kernels.fused_score(*[[m(ones(1, 2, 3, 3))]] * 2, weights=[NAN]),
        "1 finite",
        "nan",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_name_both_sides(make, case):
    call, expected, received = WRONG[case]
    with pytest.raises(ValueError, match="received") as error:
        call(make)
    before, after = str(error.value).rsplit("received", 1)
    assert expected in before
    assert received in after


def test_arrays_of_a_foreign_byte_order_or_type_are_refused():
    for dtype in (">f4", "complex64", "bool", "longdouble"):
        with pytest.raises(ValueError, match="teacher_features: expected a NumPy array of float16"):
            kernels.cosine_map(*[np.ones((1, 2, 3, 3), dtype)] * 2)


def test_tensors_of_two_devices_are_refused():
    torch = pytest.importorskip("torch")
    here, nowhere = torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3, device="meta")
    for call in (
        lambda: kernels.cosine_map(here, nowhere),
        lambda: kernels.head_input(here, nowhere),
        lambda: kernels.fused_score([here, nowhere], [here, nowhere]),
        lambda: kernels.fused_score([here], [nowhere]),
    ):
        with pytest.raises(ValueError, match=r"on cpu.*received Tensor float32 \[1, 2, 3, 3\] on meta"):
            call()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_bad_maps_spoil_what_is_made_of_them(make, bad):
    maps = np.random.default_rng(0).random((2, 5, 4)).astype(np.float32)
    maps[0, 2, 1] = bad
    ours = np.asarray(kernels.upsample(make(maps), (11, 9)))
    np.testing.assert_allclose(ours, reference.upsample(maps.astype(np.float64), (11, 9)), rtol=1e-5, atol=1e-6)
    assert np.isfinite(ours[1]).all()
    assert not np.isfinite(ours[0]).all()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_top_k_of_infinities_and_nan(make):
    rows = [[1, INF, 2, 3], [-INF, -INF, -INF, 5], [1, 2, NAN, -INF], [INF, -INF, -INF, -INF], [-INF] * 4]
    ours = np.asarray(kernels.topk_mean(make(np.array(rows, np.float32)), 2))
    np.testing.assert_array_equal(ours, [INF, -INF, NAN, NAN, -INF])


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("combine", ["mean", "sum", "product"])
@pytest.mark.parametrize("bad", [NAN, INF])
def test_an_image_with_a_bad_feature_has_no_score_and_others_keep_theirs(make, combine, bad):
    teacher = np.random.default_rng(0).standard_normal((2, 6, 4, 4)).astype(np.float32)
    student = teacher[:, ::-1].copy()
    options = {"size": (9, 9), "k": 4, "combine": combine}
    good = kernels.fused_score([make(teacher)], [make(student)], **options)
    student[1, 3, 2, 2] = bad
    ours = kernels.fused_score([make(teacher)], [make(student)], **options)
    assert np.isnan(np.asarray(ours.image_score)[1])
    np.testing.assert_array_equal(np.asarray(ours.pixel_scores)[0], np.asarray(good.pixel_scores)[0])
    assert np.asarray(ours.image_score)[0] == np.asarray(good.image_score)[0]
    assert np.isnan(np.asarray(ours.pixel_scores)[1]).any()
    assert np.isfinite(np.asarray(ours.pixel_scores)[1]).any()


@pytest.mark.parametrize("backend", ["numpy", "cpp"])
def test_regions_of_bad_scores(backend, monkeypatch):
    if reason := kernels.available_backends()[backend]:
        pytest.skip(reason)
    monkeypatch.setenv("EDGE_AD_BACKEND", backend)
    scores = np.array([[NAN, INF, 1], [0, -INF, NAN], [0, 0, 2]], np.float32)
    assert kernels.find_defects(scores, 0.5) == [((1, 0, 2, 1), 2, INF), ((2, 2, 1, 1), 1, 2.0)]
    assert kernels.find_defects(scores, INF) == []
    assert kernels.find_defects(np.full((2, 2), NAN, np.float32), -INF) == []
    for wrong in (scores[0], np.zeros((3, 3), int), scores.tolist()):
        with pytest.raises(ValueError, match=r"expected a NumPy array \[H,W\] of floats, received"):
            kernels.find_defects(wrong, 0.5)
    with pytest.raises(ValueError, match="expected a number, received nan"):
        kernels.find_defects(scores, NAN)
    with pytest.raises(ValueError, match="at least 1, received 0"):
        kernels.find_defects(scores, 0.5, min_area=0)
