"""Every backend on NumPy arrays and CPU tensors against the definition in float64."""

import multiprocessing
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad import kernels
from edge_ad.kernels import reference

pytest.importorskip("edge_ad.kernels._cpp", reason="the C++ module was not built")
SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 192, 14, 14), (2, 17, 17, 16), (0, 4, 3, 3), (1, 5, 1, 300)]


@pytest.fixture(params=["cpp", "numpy"])
def backend(request, monkeypatch):
    monkeypatch.setenv("EDGE_AD_BACKEND", request.param)
    return request.param


def features(*shape, noise=0.5, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    teacher = rng.standard_normal(shape)
    return teacher.astype(dtype), (teacher + noise * rng.standard_normal(shape)).astype(dtype)


def exactly(operation, *arrays, **options):
    """The operation as defined, in float64."""
    return operation(*(array.astype(np.float64) for array in arrays), **options)


def assert_no_worse_than_plain(ours, plain, exact, floor=1e-6):
    """|ours - exact| <= 2 |plain - exact| + floor."""
    assert ours.dtype == np.float32
    assert ours.shape == exact.shape
    assert np.all(np.abs(ours - exact) <= 2 * np.abs(plain - exact).max(initial=0) + floor * (1 + np.abs(exact)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("noise", [0.5, 1e-4, 30.0])
def test_cosine_map(backend, shape, noise):
    pair = features(*shape, noise=noise)
    exact = exactly(kernels.cosine_map, *pair)
    plain = reference.cosine_map(*pair, channels_last=False, eps=1e-6)
    assert_no_worse_than_plain(kernels.cosine_map(*pair), plain, exact)
    last = [np.ascontiguousarray(np.moveaxis(x, 1, -1)) for x in pair]
    assert_no_worse_than_plain(kernels.cosine_map(*last, channels_last=True), plain, exact)
    viewed = [np.moveaxis(x, -1, 1) for x in last]  # channels first, but last in memory
    assert_no_worse_than_plain(kernels.cosine_map(*viewed), plain, exact)
    strided = [np.repeat(np.repeat(x, 2, axis=3), 3, axis=1)[:, ::3, :, ::2] for x in pair]
    assert_no_worse_than_plain(kernels.cosine_map(*strided), plain, exact)


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e3, 1e9])
def test_cosine_map_of_any_length(backend, scale):
    teacher, student = features(1, 24, 4, 4)
    student *= np.float32(scale)
    np.testing.assert_allclose(
        kernels.cosine_map(teacher, student), exactly(kernels.cosine_map, teacher, student), atol=2e-6
    )


def test_cosine_map_keeps_digits_where_features_nearly_agree(backend):
    pair = features(1, 384, 4, 5, noise=1e-3)
    np.testing.assert_allclose(kernels.cosine_map(*pair), exactly(kernels.cosine_map, *pair), rtol=2e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_features_spoil_their_position_only(backend, bad):
    teacher, student = features(1, 9, 3, 3)
    student[0, 4, 1, 2] = bad
    with np.errstate(invalid="ignore"):
        ours = kernels.cosine_map(teacher, student)
        score = kernels.fused_score([teacher], [student], size=(6, 6), k=3).image_score
    assert np.isnan(ours[0, 1, 2])
    assert np.isnan(ours).sum() == 1
    assert np.isnan(score).all()


def test_zero_vectors(backend):
    zero, one = np.zeros((1, 3, 1, 1), np.float32), np.ones((1, 3, 1, 1), np.float32)
    assert kernels.cosine_map(zero, zero).item() == 0
    assert kernels.cosine_map(zero, one).item() == pytest.approx(0.5, abs=1e-6)
    assert kernels.head_input(zero, one).tolist() == zero.tolist()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_head_input(backend, shape, dtype):
    pair = features(*shape, dtype=dtype)
    exact = exactly(kernels.head_input, *pair)
    assert_no_worse_than_plain(kernels.head_input(*pair), reference.head_input(*pair, eps=1e-6), exact)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (64, 37), (256, 256)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 9, 7), (1, 64, 64), (0, 3, 3)])
def test_upsample(backend, shape, size):
    maps = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    plain = reference.upsample(maps, size)
    assert_no_worse_than_plain(kernels.upsample(maps, size), plain, exactly(kernels.upsample, maps, size=size), 1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(1, 10**6), st.integers(0, 99), st.sampled_from([1, 3, 10**6]), st.booleans())
def test_topk_mean_is_exact_with_ties_and_in_any_order(pixels, k, seed, levels, ascending):
    k = 1 + k % pixels
    scores = np.random.default_rng(seed).integers(-levels, levels + 1, (2, pixels)).astype(np.float32) / 8
    scores = np.sort(scores, axis=1) if ascending else scores
    exact = np.sort(scores.astype(np.float64), axis=1)[:, pixels - k :].mean(axis=1)
    np.testing.assert_allclose(kernels.topk_mean(scores, k), exact, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("k", [1, 100, 5000, 20000])
def test_topk_mean_of_large_maps(backend, k):
    rng = np.random.default_rng(0)
    scores = np.sort(rng.standard_normal((5, 20000)).astype(np.float32), axis=1)
    scores[1] = scores[1, ::-1].copy()
    scores[2] = 0.25
    scores[3] = rng.permutation(scores[3])
    scores[4] = 1 + 1e-4 * rng.random(20000)
    exact = np.sort(scores.astype(np.float64), axis=1)[:, 20000 - k :].mean(axis=1)
    np.testing.assert_allclose(kernels.topk_mean(scores.reshape(5, 100, 200), k), exact, rtol=2e-7, atol=2e-7)


@pytest.mark.parametrize("k", [1, 100])
def test_topk_mean_finds_nan_among_scores_too_low_to_count(backend, k):
    places = [0, 31, 32, 5000, 9998, 9999]
    scores = np.tile(np.linspace(2, 1, 10000, dtype=np.float32), (len(places), 1))
    scores[range(len(places)), places] = np.nan
    assert np.isnan(kernels.topk_mean(scores, k)).all()


def test_topk_mean_of_infinities_and_nan(backend):
    inf, nan = np.inf, np.nan
    rows = [[1, inf, 2, 3], [-inf, -inf, -inf, 5], [1, 2, nan, -inf], [inf, -inf, -inf, -inf], [-inf] * 4]
    with np.errstate(invalid="ignore"):
        ours = kernels.topk_mean(np.array(rows, np.float32), 2)
    np.testing.assert_array_equal(ours, [inf, -inf, nan, nan, -inf])


@pytest.mark.parametrize("combine", ["mean", "sum", "product"])
@pytest.mark.parametrize("sigma", [0.0, 2.0])
@pytest.mark.parametrize("weights", [None, (1.0, 0.0, 0.7)])
def test_fused_score(backend, combine, sigma, weights):
    pairs = [features(2, 12, 7, 5, seed=1), features(2, 30, 14, 10, seed=2), features(2, 6, 7, 5, seed=3)]
    pairs[2] = tuple(np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1) for x in pairs[2])
    teacher, student = zip(*pairs, strict=True)
    options = {"size": (40, 33), "combine": combine, "sigma": sigma, "weights": weights, "k": 50}
    exact = kernels.fused_score([t.astype("f8") for t in teacher], [s.astype("f8") for s in student], **options)
    ours = kernels.fused_score(teacher, student, **options)
    np.testing.assert_allclose(ours.pixel_scores, exact.pixel_scores, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(ours.image_score, exact.image_score, rtol=2e-5)
    alone = kernels.fused_score(teacher, student, **options, return_pixel_scores=False)
    assert alone.pixel_scores is None
    np.testing.assert_array_equal(alone.image_score, ours.image_score)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40), st.integers(1, 40), st.sampled_from("rbgs"))
def test_preprocess_gives_the_same_bytes(height, width, h, w, kind):
    frame = np.random.default_rng(height).integers(0, 256, (height, 2 * width, 3), dtype=np.uint8)
    frame = {"g": frame[..., 0], "s": frame[::-1, ::2]}.get(kind, frame)
    options = {
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "channels": "bgr" if kind == "b" else "rgb",
    }
    ours = kernels.preprocess(frame, (h, w), **options)
    np.testing.assert_array_equal(ours, reference.preprocess(frame, (h, w), **options))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.floats(0.2, 0.9), st.integers(1, 4), st.integers(0, 999))
def test_find_defects_is_the_definition(height, width, threshold, min_area, seed):
    scores = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    scores[scores < 0.1] = np.nan
    expected = reference.find_defects(scores, threshold, min_area=min_area)
    assert kernels.find_defects(scores, threshold, min_area=min_area) == expected


@pytest.mark.parametrize("shape", [(6, 97, 63, 65), (40, 210, 16, 16)])
def test_a_batch_too_large_for_caches_is_its_images(shape):
    pair = features(*shape)
    for operation in (kernels.cosine_map, kernels.head_input):
        together = operation(*pair)
        for image in range(shape[0]):
            alone = operation(*(x[image : image + 1] for x in pair))
            np.testing.assert_array_equal(together[image : image + 1], alone)


@pytest.mark.parametrize("shape", [(5, 70, 63, 65), (1, 9, 400, 401), (2500, 51, 1, 11), (2, 70001, 4, 3)])
def test_head_input_too_large_for_caches(shape):
    teacher, student = features(*shape)
    student[0, :, 0, 1] *= np.float32(1e25)  # squares beyond float32: computed once more
    teacher[-1, 3, -1, -1] = np.nan
    result = kernels.head_input(teacher, student)
    assert np.isnan(result[-1, :, -1, -1]).all()
    assert np.isnan(result).sum() == shape[1]
    exact = exactly(kernels.head_input, teacher, student)
    np.testing.assert_allclose(result, exact, rtol=1e-5, atol=2e-5)


def _scores(threads=None):
    if threads:
        kernels.set_threads(threads)
    teacher, student = features(6, 96, 40, 40)
    frame = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    small = kernels.preprocess(frame, (64, 64), (0.5,) * 3, (0.5,) * 3)
    return [kernels.cosine_map(teacher, student), *kernels.fused_score([teacher], [student]), small]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns where there are threads
def test_threads_change_nothing():
    single = _scores()
    results = []
    try:
        for one, many in zip(single, _scores(threads=4), strict=True):
            np.testing.assert_array_equal(one, many)
        callers = [threading.Thread(target=lambda: results.append(_scores())) for _ in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        with multiprocessing.get_context("fork").Pool(1) as pool:
            results.append(pool.apply(_scores))  # a forked child still computes
    finally:
        kernels.set_threads(1)
    for result in results:
        for one, many in zip(single, result, strict=True):
            np.testing.assert_array_equal(one, many)
