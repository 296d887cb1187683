"""The C++ map and its gradient against autograd through the definition in float64."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("edge_ad.kernels._cpp", reason="the C++ kernels were not built")

from edge_ad import kernels  # noqa: E402
from edge_ad.kernels import cpp_autograd  # noqa: E402

EPS = 1e-6


def exact(teacher, student, weight):
    """Map and gradient in float64, by autograd through |t̂ - ŝ|² / 2 written out."""
    teacher, student = teacher.double(), student.double().requires_grad_()
    units = [x / x.square().sum(1, keepdim=True).clamp_min(EPS**2).sqrt() for x in (teacher, student)]
    result = 0.5 * (units[0] - units[1]).square().sum(1)
    (gradient,) = torch.autograd.grad((result * weight.double()).sum(), student)
    return result.detach(), gradient


def ours(teacher, student, weight):
    student = student.clone().requires_grad_()
    result = kernels.cosine_map(teacher, student)
    assert "CosineMap" in type(result.grad_fn).__name__
    (gradient,) = torch.autograd.grad((result * weight).sum(), student)
    return result.detach(), gradient


@settings(deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, high) for high in (3, 40, 9, 40))),
    noise=st.sampled_from([1e-3, 0.3, 3.0]),
    scale=st.sampled_from([1e-3, 1.0, 1e4, 1e20]),
    seed=st.integers(0, 2**31),
)
def test_map_and_gradient_are_the_definitions(shape, noise, scale, seed):
    make = torch.Generator().manual_seed(seed)
    teacher = torch.randn(shape, generator=make)
    student = (teacher + noise * torch.randn(shape, generator=make)) * scale
    weight = torch.randn((shape[0], *shape[2:]), generator=make)
    (found, gradient), (wanted, wanted_gradient) = (f(teacher, student, weight) for f in (ours, exact))
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-6)
    # the two terms of a gradient nearly cancel where the vectors are alike: rounding scales with the terms
    lengths = student.double().square().sum(1, keepdim=True).sqrt()
    error = (gradient.double() - wanted_gradient).abs() * lengths / weight.double().abs()[:, None].clamp_min(1e-3)
    assert error.max() < 2e-6


def test_short_and_zero_vectors():
    teacher = torch.randn(1, 6, 2, 2, generator=torch.Generator().manual_seed(0))
    student = torch.zeros(1, 6, 2, 2)
    student[0, :, 0, 0] = 1e-8
    weight = torch.ones(1, 2, 2)
    (found, gradient), (wanted, wanted_gradient) = (f(teacher, student, weight) for f in (ours, exact))
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient.double(), wanted_gradient, rtol=1e-4, atol=1e-2)


def test_nan_reaches_map_and_gradient():
    teacher, student = torch.ones(1, 4, 2, 2), torch.full((1, 4, 2, 2), 2.0)
    student[0, 1, 1, 0] = float("nan")
    found, gradient = ours(teacher, student, torch.ones(1, 2, 2))
    assert torch.isnan(found).nonzero().tolist() == [[0, 1, 0]]
    assert torch.isnan(gradient[0, :, 1, 0]).all()
    assert torch.isfinite(gradient[0, :, 0]).all()


def test_strided_features_and_gradients():
    make = torch.Generator().manual_seed(1)
    teacher, student = (torch.randn(2, 5, 4, 7, generator=make).transpose(1, 3) for _ in range(2))
    weight = torch.randn(2, 5, 4, generator=make).transpose(1, 2)
    (found, gradient), (wanted, wanted_gradient) = (f(teacher, student, weight) for f in (ours, exact))
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient.double(), wanted_gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("why", ["forced", "teacher", "double", "no_grad", "exported"])
def test_elsewhere_plain_torch_runs(why, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("C++ under autograd ran")

    teacher, student = torch.randn(1, 4, 3, 3), torch.randn(1, 4, 3, 3, requires_grad=why != "no_grad")
    if why == "forced":
        monkeypatch.setenv("EDGE_AD_BACKEND", "torch")
    if why == "teacher":
        teacher.requires_grad_()
    if why == "double":
        teacher, student = teacher.double(), student.detach().double().requires_grad_()
    monkeypatch.setattr(cpp_autograd, "cosine_map", refuse)

    class Map(torch.nn.Module):
        def forward(self, teacher, student):
            return kernels.cosine_map(teacher, student)

    if why == "exported":
        with torch.no_grad():
            torch.export.export(Map(), (teacher, student.detach()))
    else:
        Map()(teacher, student)
