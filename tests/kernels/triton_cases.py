"""The Triton operations against the definition in float64: run by test_triton.py, interpreted or on a GPU."""

import contextlib
import itertools
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from edge_ad import kernels
from edge_ad.kernels import triton_ops

# the interpreter of Triton 3.6, where 3.8 has none
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning")
DEVICE = "cuda" if torch.cuda.is_available() and not triton_ops.INTERPRETED else "cpu"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(2, 5, 3, 7), (1, 192, 14, 14), (1, 1, 1, 1), (0, 4, 3, 3)]


@pytest.fixture(autouse=True)
def _backend(monkeypatch):
    monkeypatch.setenv("EDGE_AD_BACKEND", "triton")


def features(*shape, dtype=torch.float32, noise=0.5, seed=0):
    make = torch.Generator().manual_seed(seed)
    teacher = torch.randn(*shape, generator=make)
    student = teacher + noise * torch.randn(*shape, generator=make)
    return teacher.to(DEVICE, dtype), student.to(DEVICE, dtype)


def arrays(*tensors):
    return [t.detach().double().cpu().numpy() for t in tensors]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_cosine_map(shape, dtype):
    pair = features(*shape, dtype=dtype)
    exact = kernels.cosine_map(*arrays(*pair))
    assert kernels.cosine_map(*pair).dtype == torch.float32
    np.testing.assert_allclose(kernels.cosine_map(*pair).cpu(), exact, rtol=1e-5, atol=2e-6)
    last = kernels.cosine_map(*(x.permute(0, 2, 3, 1).contiguous() for x in pair), channels_last=True)
    np.testing.assert_allclose(last.cpu(), exact, rtol=1e-5, atol=2e-6)
    strided = [torch.stack([x, x * torch.nan], dim=4).flatten(3)[..., ::2] for x in pair]
    np.testing.assert_allclose(kernels.cosine_map(*strided).cpu(), exact, rtol=1e-5, atol=2e-6)


def test_cosine_map_where_features_nearly_agree_are_zero_or_bad():
    pair = features(1, 64, 4, 4, noise=1e-3)
    np.testing.assert_allclose(kernels.cosine_map(*pair).cpu(), kernels.cosine_map(*arrays(*pair)), rtol=2e-3)
    teacher, student = features(1, 3, 1, 4)
    teacher[..., 0] = student[..., :2] = 0
    student[0, 1, 0, 2] = torch.nan
    ours = kernels.cosine_map(teacher, student).cpu()[0, 0]
    np.testing.assert_allclose(ours[:3], [0, 0.5, torch.nan], atol=1e-6)
    assert torch.isfinite(ours[3])


@pytest.mark.parametrize("dtype", DTYPES)
def test_head_input(dtype):
    pair = features(2, 12, 5, 3, dtype=dtype)
    np.testing.assert_allclose(
        kernels.head_input(*pair).cpu(), kernels.head_input(*arrays(*pair)), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", ["cosine_map", "head_input"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("needs", [(True, True), (False, True)])
def test_gradients_are_autograds_in_float64(name, last, needs, monkeypatch):
    operation = getattr(kernels, name)
    pair = features(2, 20, 5, 3)
    pair[1][:, :, 0, 0] *= 1e-9  # shorter than eps
    if last:
        pair = tuple(x.to(memory_format=torch.channels_last) for x in pair)
    ours = [x.clone().requires_grad_(need) for x, need in zip(pair, needs, strict=True)]
    exact = [x.double().clone().requires_grad_(need) for x, need in zip(pair, needs, strict=True)]
    result = operation(*ours)
    grad = torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    result.backward(grad)
    monkeypatch.setenv("EDGE_AD_BACKEND", "torch")
    operation(*exact).backward(grad.double())
    for mine, theirs, need in zip(ours, exact, needs, strict=True):
        assert (mine.grad is not None) == need
        if need:
            scale = theirs.grad.abs().amax(dim=1, keepdim=True)
            assert ((mine.grad - theirs.grad).abs() <= 2e-5 * scale + 1e-7).all()


@pytest.mark.parametrize("pixels", [1, 100, 777, 65536 if DEVICE == "cuda" else 5000])
@pytest.mark.parametrize("levels", [2, 10**6])
def test_topk_mean(pixels, levels):
    scores = np.random.default_rng(0).integers(-levels, levels + 1, (3, pixels)).astype(np.float32) / 8
    for k in (1, (pixels + 1) // 2):
        exact = np.sort(scores.astype(np.float64), axis=1)[:, pixels - k :].mean(axis=1)
        ours = kernels.topk_mean(torch.from_numpy(scores).to(DEVICE), k)
        np.testing.assert_allclose(ours.cpu(), exact, rtol=2e-6, atol=1e-6 * levels)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy's, in the interpreter
def test_topk_mean_of_infinities_and_nan():
    inf, nan = np.inf, np.nan
    rows = [[1, inf, 2, 3], [-inf, -inf, -inf, 5], [1, 2, nan, -inf], [inf, -inf, -inf, -inf], [1, 2, -nan, 4]]
    ours = kernels.topk_mean(torch.tensor(rows, device=DEVICE), 2)
    np.testing.assert_array_equal(ours.cpu(), [inf, -inf, nan, nan, nan])


# NumPy's, of pixels outside the map and of powers not taken
quiet = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@quiet
@pytest.mark.parametrize("combine", ["mean", "sum", "product"])
@pytest.mark.parametrize(("layers", "sigma"), [(1, 0.0), (3, 0.0), (3, 1.0), (4, 0.0), (5, 0.0)])
def test_fused_score(combine, layers, sigma):
    pairs = [features(2, 6 + i, 4 + i, 5, seed=i) for i in range(layers)]
    teacher, student = zip(*pairs, strict=True)
    options = {"size": (19, 16), "combine": combine, "sigma": sigma, "k": 7}
    options["weights"] = (1.0, 0.0, 0.7, 2.0, 0.5)[:layers]
    exact = kernels.fused_score(arrays(*teacher), arrays(*student), **options)
    ours = kernels.fused_score(teacher, student, **options)
    np.testing.assert_allclose(ours.pixel_scores.cpu(), exact.pixel_scores, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(ours.image_score.cpu(), exact.image_score, rtol=2e-5)
    assert kernels.fused_score(teacher, student, **options, return_pixel_scores=False).pixel_scores is None


@quiet
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["first", "last", "mixed"])
@pytest.mark.parametrize("once", [True, False])
def test_few_features_take_one_launch_and_many_take_several(dtype, layout, once, monkeypatch):
    if not once:
        monkeypatch.setattr(triton_ops, "ONE_LAUNCH_BYTES", 0)
    for name in ["combine_kernel"] if once else ["fused_score_kernel"]:
        monkeypatch.setattr(triton_ops, name, None)  # not to be launched
    pairs = [features(3, 20, 7, 9, dtype=dtype), features(3, 8, 4, 4, dtype=dtype, seed=1)]
    if layout != "first":
        last = [x.to(memory_format=torch.channels_last) for x in pairs[0]]
        pairs[0] = (last[0], pairs[0][1] if layout == "mixed" else last[1])
        pairs[1] = tuple(x.to(memory_format=torch.channels_last) for x in pairs[1])
    teacher, student = zip(*pairs, strict=True)
    exact = kernels.fused_score(arrays(*teacher), arrays(*student), size=(21, 30), k=20)
    ours = kernels.fused_score(teacher, student, size=(21, 30), k=20)
    np.testing.assert_allclose(ours.pixel_scores.cpu(), exact.pixel_scores, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(ours.image_score.cpu(), exact.image_score, rtol=2e-5)


@quiet
def test_one_launch_leaves_its_counters_as_it_found_them(monkeypatch):
    counters = torch.zeros(64, dtype=torch.int32, device=DEVICE)
    monkeypatch.setattr(triton_ops, "_counters", lambda like, count: counters)
    for batch in (1, 3, 2):  # as replays of graphs do, launches follow each other on the same counters
        pair = features(batch, 8, 5, 5, seed=batch)
        exact = kernels.fused_score(arrays(pair[0]), arrays(pair[1]), size=(12, 12), k=5)
        ours = kernels.fused_score([pair[0]], [pair[1]], size=(12, 12), k=5)
        np.testing.assert_allclose(ours.image_score.cpu(), exact.image_score, rtol=2e-5)
        assert not counters.any()


class OnGpu:
    """What _counters asks of a tensor on a GPU. `state` holds the stream and whether it is being captured."""

    is_cuda, device = True, torch.device("cuda", 0)

    def __init__(self, monkeypatch):
        self.stream, self.captured, self.threads = 1, False, []
        monkeypatch.setattr(triton_ops, "_kept", {})
        monkeypatch.setattr(triton_ops, "_spare", {})
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.captured)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=self.stream))
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())

    def new_zeros(self, count, dtype):
        self.threads.append(threading.get_ident())
        return torch.zeros(count, dtype=dtype)

    def counters(self, count, stream=1, captured=False):
        self.stream, self.captured = stream, captured
        given = triton_ops._counters(self, count)
        assert len(given) >= count
        return given.data_ptr(), given.data_ptr() + 4 * count


def test_launches_beside_each_other_have_counters_of_their_own(monkeypatch):
    gpu = OnGpu(monkeypatch)
    assert gpu.counters(5) == gpu.counters(5)
    given = [gpu.counters(500), gpu.counters(5, stream=2), gpu.counters(1500, captured=True)]
    given += [gpu.counters(1500, stream=2, captured=True), gpu.counters(7, stream=2, captured=True)]
    given += [gpu.counters(7, captured=True)]
    given.sort()
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(given))
    assert gpu.counters(501) == gpu.counters(501)
    # none made by this thread, whose memory may be a graph's, but for what is made again at each replay
    assert threading.get_ident() not in gpu.threads
    gpu.counters(5000, captured=True)
    assert gpu.threads[-1] == threading.get_ident()


@quiet
@pytest.mark.parametrize(("scale", "eps"), [(1e25, 1e-6), (3e37, 1e-6), (1e-25, 1e-30), (1e-25, 1e-6)])
def test_long_and_short_features(scale, eps):
    teacher, student = features(1, 20, 3, 5)
    mixed = torch.ones(1, 1, 3, 5, device=DEVICE)
    mixed[..., 1:3] = scale
    pair = teacher * mixed, student * mixed
    for operation in (kernels.cosine_map, kernels.head_input):
        exact = operation(*arrays(*pair), eps=eps)
        np.testing.assert_allclose(operation(*pair, eps=eps).cpu(), exact, rtol=2e-5, atol=2e-6)
        given = pair[1].clone().requires_grad_()
        operation(pair[0], given, eps=eps).sum().backward()
        wanted = pair[1].double().cpu().requires_grad_()
        operation(pair[0].double().cpu(), wanted, eps=eps).sum().backward()
        length = pair[1].double().cpu().norm(dim=1, keepdim=True).clamp_min(eps)
        np.testing.assert_allclose(given.grad.cpu() * length, wanted.grad * length, rtol=1e-4, atol=1e-5)


@quiet
def test_bad_features_spoil_every_channel_of_their_position_only():
    teacher, student = features(1, 9, 3, 3)
    student[0, 4, 1, 2], student[0, 5, 0, 0] = torch.inf, torch.nan
    for ours in (kernels.cosine_map(teacher, student)[:, None], kernels.head_input(teacher, student)):
        bad = torch.isnan(ours.cpu())
        assert bad[0, :, 1, 2].all()
        assert bad[0, :, 0, 0].all()
        assert bad.sum() == 2 * ours.shape[1]


def test_operators_are_registered_as_torch_wants_them():
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    teacher, student = features(2, 4, 3, 3)
    for name in ("cosine_map", "head_input"):
        operator = getattr(torch.ops.edge_ad, name).default
        torch.library.opcheck(operator, (teacher, student.requires_grad_(), 1e-6), test_utils=checks)
    maps = [torch.rand(2, 3, 3, device=DEVICE), torch.rand(2, 5, 4, device=DEVICE)]
    torch.library.opcheck(torch.ops.edge_ad.combine.default, (maps, [0.5, 0.5], False, 8, 8), test_utils=checks)
    torch.library.opcheck(torch.ops.edge_ad.topk_mean.default, (maps[0].flatten(1), 2), test_utils=checks)
    score = ([teacher], [student.detach()], [1.0], False, 8, 8, 3, 1e-6)
    torch.library.opcheck(torch.ops.edge_ad.fused_score.default, score, test_utils=checks)


def test_compiles_into_one_graph():
    def loss(teacher, student):
        return kernels.cosine_map(teacher, student).mean()

    pair = features(2, 6, 4, 4)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    student = pair[1].clone().requires_grad_()
    compiled(pair[0], student).backward()
    other = pair[1].clone().requires_grad_()
    loss(pair[0], other).backward()
    torch.testing.assert_close(student.grad, other.grad)


@pytest.mark.skipif(DEVICE == "cpu", reason="there is no CUDA device")
def test_replays_as_a_cuda_graph():
    pairs = [features(1, 32, 8, 8, seed=i) for i in range(3)]
    teacher, student = zip(*pairs, strict=True)
    expected = kernels.fused_score(teacher, student)  # tunes, too
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = kernels.fused_score(teacher, student)
    graph.replay()
    torch.testing.assert_close(captured.image_score, expected.image_score)
    torch.testing.assert_close(captured.pixel_scores, expected.pixel_scores)
