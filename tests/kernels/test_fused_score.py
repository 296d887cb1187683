"""The C++ score leaves out pieces of the map that can't count: it must never leave out one that does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad import kernels

pytest.importorskip("edge_ad.kernels._cpp", reason="the C++ module was not built")
KINDS = ["near", "far", "flat", "steps", "one peak", "rising", "zero", "nan", "inf"]


def pair(rng, shape, kind):
    """Teacher and student whose difference map has plateaus, ties, peaks or bad numbers."""
    batch, _, h, w = shape
    teacher = rng.standard_normal(shape).astype(np.float32)
    if kind in ("near", "far"):
        return teacher, (teacher + {"near": 1e-3, "far": 3}[kind] * rng.standard_normal(shape)).astype(np.float32)
    student = teacher.copy()
    if kind == "flat":  # 2 everywhere
        student = -teacher
    elif kind == "zero":
        teacher[:] = student[:] = 0
    elif kind == "steps":  # 0 or 2
        student *= rng.choice([-1, 1], (batch, 1, h, w)).astype(np.float32)
    elif kind == "rising":  # the largest scores come last
        student = teacher + np.linspace(0, 3, h * w, dtype=np.float32).reshape(h, w)
    else:
        bad = {"one peak": -student, "nan": student * np.nan, "inf": student * np.inf}[kind]
        at = (rng.integers(batch), slice(None), rng.integers(h), rng.integers(w))
        student[at] = bad[at]
    return teacher, student


side = st.integers(1, 20)


@settings(max_examples=150, deadline=None)
@given(
    grids=st.lists(st.tuples(st.integers(1, 9), side, side), min_size=1, max_size=3),
    same=st.booleans(),
    size=st.tuples(st.integers(1, 40), st.integers(1, 200)),
    k=st.one_of(st.just(1), st.integers(1, 300), st.just(10**6)),
    kinds=st.lists(st.sampled_from(KINDS), min_size=3, max_size=3),
    combine=st.sampled_from(["mean", "sum", "product"]),
    weights=st.lists(st.sampled_from([1.0, 0.3, 0.0, 7.0]), min_size=3, max_size=3),
    sigma=st.sampled_from([0.0, 0.0, 0.8]),
    seed=st.integers(0, 10**6),
)
def test_top_k_is_that_of_the_whole_map(grids, same, size, k, kinds, combine, weights, sigma, seed):
    rng = np.random.default_rng(seed)
    if same:
        grids = [(channels, *grids[0][1:]) for channels, _, _ in grids]
    teacher, student = zip(*(pair(rng, (2, *g), kind) for g, kind in zip(grids, kinds, strict=False)), strict=True)
    k, weights = min(k, size[0] * size[1]), weights[: len(grids)]
    options = {"size": size, "k": k, "combine": combine, "sigma": min(sigma, max(size))}
    options["weights"] = weights if sum(weights) > 0 else None
    ours = kernels.fused_score(teacher, student, **options)
    alone = kernels.fused_score(teacher, student, **options, return_pixel_scores=False)
    np.testing.assert_array_equal(alone.image_score, ours.image_score)
    largest = np.sort(ours.pixel_scores.astype(np.float64).reshape(2, -1), axis=1)[:, -k:]  # NaN sorts last
    np.testing.assert_allclose(ours.image_score, largest.mean(axis=1), rtol=2e-7, atol=1e-44)
    if combine == "product":
        return  # roots of what should be 0 differ by more than rounding; test_backends has ordinary products
    with np.errstate(invalid="ignore"):
        exact = kernels.fused_score([t.astype("f8") for t in teacher], [s.astype("f8") for s in student], **options)
    for one, right in zip(ours, exact, strict=True):
        # where a tap's weight is 0 in float64 it may be 1e-7 in float32, or the reverse, and NaN takes any weight
        bad = np.isnan(one) | np.isnan(right)
        np.testing.assert_allclose(one[~bad], right[~bad], rtol=2e-5, atol=3e-6 * (1 + sum(weights)))


@pytest.mark.parametrize("combine", ["sum", "product"])
@pytest.mark.parametrize("weight", [1e-40, 3e38])
def test_scores_beyond_float32_are_those_of_the_map(combine, weight):
    teacher = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)
    options = {"size": (64, 70), "k": 500, "combine": combine, "weights": [weight]}
    ours = kernels.fused_score([teacher], [-teacher[:, ::-1]], **options)
    alone = kernels.fused_score([teacher], [-teacher[:, ::-1]], **options, return_pixel_scores=False)
    np.testing.assert_array_equal(alone.image_score, ours.image_score)
    np.testing.assert_array_equal(np.isnan(ours.image_score), np.isnan(ours.pixel_scores).any(axis=(1, 2)))


def test_a_bad_pixel_counts_wherever_it_lies():
    for y, x in [(0, 0), (0, 15), (8, 3), (15, 0), (15, 15)]:
        teacher, student = np.ones((2, 1, 3, 16, 16), np.float32)
        student[0, 0, 4, 4] = -9  # a peak far off
        student[0, 1, y, x] = np.nan
        for size in [(256, 256), (16, 16), (17, 300)]:
            score = kernels.fused_score([teacher], [student], size=size, k=1, return_pixel_scores=False)
            assert np.isnan(score.image_score).all()


def plateau(rng, shape, base, spread):
    """Two channels whose difference map is `base` and up to `spread` of it more: every piece may hold the largest."""
    wanted = np.minimum(base * (1 + spread * rng.random(shape)), 2)
    cosine = 1 - wanted
    student = np.stack([cosine, np.sqrt(1 - cosine**2)], axis=1)
    return np.broadcast_to(np.float32([[[1]], [[0]]]), student.shape), student.astype(np.float32)


@settings(max_examples=100, deadline=None)
@given(
    side=st.tuples(st.integers(1, 30), st.integers(1, 150)),
    layers=st.integers(1, 2),
    native=st.booleans(),
    k=st.integers(1, 1200),
    base=st.sampled_from([0.01, 0.3, 1, 1.9]),
    spread=st.sampled_from([0, 1e-7, 1e-5, 1e-3, 0.01, 0.1]),
    combine=st.sampled_from(["mean", "sum", "product"]),
    seed=st.integers(0, 10**6),
)
def test_top_k_among_scores_that_differ_little(side, layers, native, k, base, spread, combine, seed):
    rng = np.random.default_rng(seed)
    bases = base * np.array([1, 0.5]).reshape(2, 1, 1)  # the second image's scores are all below the first's
    teacher, student = zip(*(plateau(rng, (2, *side), bases, spread) for _ in range(layers)), strict=True)
    size = side if native else (41, 203)
    k = min(k, size[0] * size[1])
    options = {"size": size, "k": k, "combine": combine}
    ours = kernels.fused_score(teacher, student, **options)
    alone = kernels.fused_score(teacher, student, **options, return_pixel_scores=False)
    np.testing.assert_array_equal(alone.image_score, ours.image_score)
    largest = np.sort(ours.pixel_scores.astype(np.float64).reshape(2, -1), axis=1)[:, -k:]
    np.testing.assert_allclose(ours.image_score, largest.mean(axis=1), rtol=7e-8)  # one rounding to float32


def test_a_peak_counts_wherever_it_lies():
    rng = np.random.default_rng(0)
    places = [(y, x) for y in (0, 7, 8, 16) for x in range(150)]
    teacher, student = plateau(rng, (len(places), 17, 150), 0.5, 0.01)
    for image, (y, x) in enumerate(places):
        student[image, :, y, x] = -1, 0  # opposed
    for size in [(17, 150), (51, 450)]:
        score = kernels.fused_score([teacher], [student], size=size, k=1, return_pixel_scores=False)
        np.testing.assert_allclose(score.image_score, 2, rtol=1e-6)


def test_the_largest_score_counts_although_it_was_rounded_up():
    rng = np.random.default_rng(0)
    teacher, student = plateau(rng, (200, 5, 7), rng.uniform(0.1, 1.9, (200, 1, 1)), 0)  # equal but for rounding
    score = kernels.fused_score([teacher], [student], size=(61, 130), k=1)
    np.testing.assert_array_equal(score.image_score, score.pixel_scores.max(axis=(1, 2)))


def test_a_bad_pixel_counts_beside_a_power_that_vanishes():
    places = [(y, x) for y in (3, 12) for x in range(20, 256, 64)]  # one in each piece
    teacher, student = np.ones((2, len(places), 2, 16, 256), np.float32)
    other = student.copy()
    for image, (y, x) in enumerate(places):
        far = places[image - 3]
        student[image, 0, far[0], far[1]] = other[image, 0, far[0], far[1]] = -1
        other[image, 0, y, x] = np.nan
    options = {"size": (16, 256), "combine": "product", "weights": (7.0, 1.0), "k": 1, "return_pixel_scores": False}
    score = kernels.fused_score([teacher, teacher], [student, other], **options)
    assert np.isnan(score.image_score).all()
