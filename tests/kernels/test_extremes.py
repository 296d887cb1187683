"""Features of any length float32 can hold, on every backend that runs here, against the definition in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad import kernels

pytest.importorskip("edge_ad.kernels._cpp", reason="the C++ module was not built")
BACKENDS = ["numpy", "cpp", "torch"]
EXPONENTS = st.integers(-45, 38)
EPS = st.sampled_from([1e-6, 1e-30, 1e-12, 1e-37, 1.0, 1e20])


def run(backend, operation, *arrays, **options):
    """The operation on arrays with the backend named."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_AD_BACKEND", backend)
        if backend != "torch":
            return operation(*arrays, **options)
        torch = pytest.importorskip("torch")
        return operation(*map(torch.from_numpy, arrays), **options).numpy()


def features(channels, t_exponents, s_exponents, seed):
    """[1,C,1,P] of P lengths each, the student near the teacher but for its length; 0 under float32's smallest."""
    rng = np.random.default_rng(seed)
    teacher = rng.uniform(0.3, 1, (1, channels, 1, len(t_exponents))) * rng.choice([-1, 1], (1, channels, 1, 1))
    student = teacher + 0.3 * rng.standard_normal(teacher.shape)
    scaled = (x * np.power(10.0, e) for x, e in ((teacher, t_exponents), (student, s_exponents)))
    return [np.clip(x, -3.4e38, 3.4e38).astype(np.float32) for x in scaled]


def assert_close(ours, exact):
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, exact, rtol=2e-5, atol=2e-6)


lengths = st.lists(EXPONENTS, min_size=21, max_size=21).map(np.array)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), lengths, lengths, EPS, st.integers(0, 9))
def test_maps_and_products_of_any_length(backend, channels, t_exponents, s_exponents, eps, seed):
    pair = features(channels, t_exponents, s_exponents, seed)
    exact = [x.astype(np.float64) for x in pair]
    last = [np.ascontiguousarray(np.moveaxis(x, 1, -1)) for x in pair]
    expected = kernels.cosine_map(*exact, eps=eps)
    assert_close(run(backend, kernels.cosine_map, *pair, eps=eps), expected)
    assert_close(run(backend, kernels.cosine_map, *last, channels_last=True, eps=eps), expected)
    assert_close(run(backend, kernels.head_input, *pair, eps=eps), kernels.head_input(*exact, eps=eps))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("scale", "eps"), [(1e25, 1e-6), (3e38, 1e-6), (1e-25, 1e-30), (1e-44, 1e-37)])
def test_long_and_short_features_have_their_angle(backend, scale, eps):
    teacher = np.array([1, 0], np.float32).reshape(1, 2, 1, 1) * np.float32(scale)
    student = np.array([1, 1], np.float32).reshape(1, 2, 1, 1) * np.float32(scale)
    expected = 1 - np.sqrt(0.5) if scale > eps else 0.5 * (scale / eps) ** 2
    assert run(backend, kernels.cosine_map, teacher, student, eps=eps).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_features_spoil_every_channel_of_their_position_only(backend, bad):
    teacher, student = features(9, np.zeros(40), np.zeros(40), 0)
    good = run(backend, kernels.head_input, teacher, student)
    student[0, 4, 0, 33] = bad
    ours = run(backend, kernels.head_input, teacher, student)
    assert np.isnan(ours[..., 33]).all()
    np.testing.assert_array_equal(np.delete(ours, 33, axis=-1), np.delete(good, 33, axis=-1))


def test_gradients_of_long_and_short_features():
    torch = pytest.importorskip("torch")
    for operation in (kernels.cosine_map, kernels.head_input):
        for scale in (1e-25, 1e25):
            teacher = torch.tensor([1.0, -0.5, 2.0]).reshape(1, 3, 1, 1)
            student = (torch.tensor([0.5, 1.0, 2.0]).reshape(1, 3, 1, 1) * scale).requires_grad_()
            operation(teacher * scale, student, eps=1e-30).sum().backward()
            exact = (student.detach().double()).requires_grad_()
            operation(teacher.double() * scale, exact, eps=1e-30).sum().backward()
            np.testing.assert_allclose(student.grad * scale, exact.grad * scale, rtol=1e-5, atol=1e-6)
