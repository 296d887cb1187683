"""Plain torch: the definition, gradients, torch.compile and ONNX."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge_ad import kernels  # noqa: E402
from edge_ad.kernels import reference  # noqa: E402


def features(*shape, dtype=torch.float64, seed=0):
    make = torch.Generator().manual_seed(seed)
    teacher = torch.randn(*shape, generator=make, dtype=torch.float64)
    return teacher.to(dtype), (teacher + 0.5 * torch.randn(*shape, generator=make, dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (16, 16), (37, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_upsample_is_torchs_interpolate_in_both(size, dtype):
    maps = torch.randn(2, 7, 9, dtype=dtype)
    ours = kernels.upsample(maps, size)
    expected = torch.nn.functional.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    np.testing.assert_allclose(reference.upsample(maps.numpy(), size), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["cosine_map", "head_input"])
def test_gradients_of_both_arguments(name):
    operation = getattr(kernels, name)
    teacher, student = (x.requires_grad_() for x in features(2, 5, 3, 2))
    assert torch.autograd.gradcheck(operation, (teacher, student))
    assert torch.autograd.gradcheck(lambda s: operation(teacher.detach(), s), (student,))


def test_gradient_at_a_zero_vector_is_finite():
    student = torch.zeros(1, 4, 2, 2, requires_grad=True)
    kernels.cosine_map(torch.randn(1, 4, 2, 2), student).sum().backward()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    teacher, student = features(2, 384, 5, 4, dtype=dtype)
    exact = reference.cosine_map(teacher.double().numpy(), student.double().numpy(), channels_last=False, eps=1e-6)
    ours = kernels.cosine_map(teacher, student)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours, exact, rtol=1e-5)
    assert kernels.head_input(teacher, student).dtype == torch.float32


@pytest.mark.parametrize("combine", ["mean", "sum", "product"])
@pytest.mark.parametrize("sigma", [0.0, 1.5])
def test_fused_score_is_the_definition(combine, sigma):
    pairs = [features(2, 8, 6, 5, seed=1), features(2, 4, 3, 7, seed=2)]
    teacher, student = zip(*pairs, strict=True)
    options = {"size": (20, 17), "combine": combine, "weights": (1.0, 0.5), "sigma": sigma, "k": 11}
    ours = kernels.fused_score(teacher, student, **options)
    exact = kernels.fused_score([t.numpy() for t in teacher], [s.numpy() for s in student], **options)
    np.testing.assert_allclose(ours.pixel_scores, exact.pixel_scores, rtol=1e-9)
    np.testing.assert_allclose(ours.image_score, exact.image_score, rtol=1e-9)
    alone = kernels.fused_score(teacher, student, **options, return_pixel_scores=False)
    assert alone.pixel_scores is None
    torch.testing.assert_close(alone.image_score, ours.image_score)


class Head(torch.nn.Module):
    """The kernels as a detector's forward calls them."""

    def forward(self, teacher, student):
        anomaly_map = kernels.cosine_map(teacher, student)
        pixel_scores = kernels.upsample(anomaly_map, (32, 32))
        return kernels.head_input(teacher, student), pixel_scores, kernels.topk_mean(pixel_scores, 100)


def test_compiles_without_a_graph_break():
    torch._dynamo.reset()
    pair = features(2, 6, 4, 4, dtype=torch.float32)
    compiled = torch.compile(Head(), fullgraph=True, backend="eager")
    for ours, expected in zip(compiled(*pair), Head()(*pair), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # torch's own
def test_exports_to_plain_onnx(tmp_path):
    pytest.importorskip("onnxscript")
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pair = features(2, 6, 4, 4, dtype=torch.float32)
    path = tmp_path / "head.onnx"
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        Head().eval(), pair, dynamo=True, dynamic_shapes=({0: batch}, {0: batch}), verbose=False
    )
    program.save(path)
    nodes = onnx.load(path).graph.node
    assert {node.domain for node in nodes} <= {"", "ai.onnx"}
    assert "TopK" in {node.op_type for node in nodes}
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    other = features(3, 6, 4, 4, dtype=torch.float32, seed=7)
    inputs = {i.name: x.numpy() for i, x in zip(session.get_inputs(), other, strict=True)}
    for ours, expected in zip(session.run(None, inputs), Head()(*other), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


def test_an_exported_map_has_no_operators_for_vectors_of_absurd_length():
    class Map(torch.nn.Module):
        def forward(self, teacher, student):
            return kernels.cosine_map(teacher, student)

    teacher, student = features(2, 6, 3, 4, dtype=torch.float32)
    program = torch.export.export(Map(), (teacher, student))
    names = [str(node.target) for node in program.graph.nodes]
    assert not [name for name in names if "amax" in name or "abs" in name]
    torch.testing.assert_close(program.module()(teacher, student), kernels.cosine_map(teacher, student))
