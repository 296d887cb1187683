"""The Triton operations against the definition in float64: run by test_triton.py, interpreted or on a GPU."""

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


# NumPy's, of pixels outside the map and of powers not taken
quiet = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(autouse=True)
def _backend(monkeypatch):
    """Triton, and NaN (or the largest whole number) in all memory that a kernel has yet to write."""
    monkeypatch.setenv("EDGE_AD_BACKEND", "triton")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)


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


def test_memory_is_poisoned_before_it_is_written():
    assert torch.isnan(torch.empty(3, device=DEVICE)).all()
    assert (torch.ones(2, device=DEVICE).new_empty(3, dtype=torch.int32) == 2**31 - 1).all()


def topk_exact(scores, k):
    """float64, NaN largest."""
    return np.sort(scores.astype(np.float64), axis=1)[:, scores.shape[1] - k :].mean(axis=1)


@quiet
@pytest.mark.parametrize("pixels", [1, 100, 777, 5000, 65536])
@pytest.mark.parametrize("levels", [0, 2, 10**6])
def test_topk_mean(pixels, levels):
    scores = np.random.default_rng(0).integers(-levels, levels + 1, (3, pixels)).astype(np.float32) / 8
    for k in sorted({1, min(pixels, 100), min((pixels + 1) // 2, 3000), min(pixels, 777)}):
        ours = kernels.topk_mean(torch.from_numpy(scores).to(DEVICE), k)
        np.testing.assert_allclose(ours.cpu(), topk_exact(scores, k), rtol=2e-6, atol=1e-6 * levels)


@quiet
@pytest.mark.parametrize("k", [1, 99, 100, 101, 128])
def test_topk_mean_where_many_groups_reach_the_bound(k):
    """Ties at the k-th place, more than the groups that can be gathered; the k largest in one group, or far apart."""
    flat = np.full(16384, 0.5, np.float32)
    few, many, one, apart = flat.copy(), flat.copy(), flat.copy(), flat.copy()
    few[:: 16384 // 64] = 0.75
    many[::40] = 0.75
    one[4096 : 4096 + 90] = np.linspace(1, 2, 90)
    apart[7::163][:100] = np.linspace(1, 2, 100)
    negative = -np.random.default_rng(1).random(16384).astype(np.float32)
    scores = np.stack([flat, few, many, one, apart, negative])
    ours = kernels.topk_mean(torch.from_numpy(scores).to(DEVICE), k)
    np.testing.assert_allclose(ours.cpu(), topk_exact(scores, k), rtol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_topk_mean_of_any_type_and_layout(dtype):
    scores = torch.rand(4, 3, 50, 7, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)
    for given in (scores, scores[::2, :, ::3], scores.transpose(1, 3), scores[:0]):
        exact = topk_exact(arrays(given.flatten(1))[0], 9)
        ours = kernels.topk_mean(given, 9)
        assert ours.dtype == torch.float32
        np.testing.assert_allclose(ours.cpu(), exact, rtol=2e-6)


@quiet
def test_topk_mean_of_infinities_and_nan():
    inf, nan = np.inf, np.nan
    rows = [[1, inf, 2, 3], [-inf, -inf, -inf, 5], [1, 2, nan, -inf], [inf, -inf, -inf, -inf], [1, 2, -nan, 4]]
    ours = kernels.topk_mean(torch.tensor(rows, device=DEVICE), 2)
    np.testing.assert_array_equal(ours.cpu(), [inf, -inf, nan, nan, nan])
    lowest = torch.full((2, 5000), -inf, device=DEVICE)
    lowest[1, 4999] = nan
    np.testing.assert_array_equal(kernels.topk_mean(lowest, 100).cpu(), [-inf, nan])


def test_a_k_too_large_to_hold_goes_to_torch(monkeypatch):
    assert triton_ops.topk_plan(65536, 30000) is None
    monkeypatch.setattr(triton_ops, "maxima_kernel", None)  # not to be launched
    scores = torch.rand(2, 65536, generator=torch.Generator().manual_seed(0))
    exact = topk_exact(scores.numpy(), 30000)
    np.testing.assert_allclose(kernels.topk_mean(scores.to(DEVICE), 30000).cpu(), exact, rtol=2e-6)


@pytest.mark.parametrize("count", [1, 2, 17, 1000, 65536, 147456, 1 << 20])
def test_a_plan_has_groups_for_all_scores_and_at_least_k(count):
    for k in {1, 2, 16, 100, 128, 1000, count} - set(range(count + 1, 2000)):
        plan = triton_ops.topk_plan(count, k)
        if plan is None:
            assert count > triton_ops.MAX_HELD
            assert k > 100
            continue
        assert plan.groups >= k
        assert plan.slots >= k
        assert (plan.groups - 1) * plan.group < count <= plan.groups * plan.group
        assert max(plan.groups, plan.slots * plan.group) <= plan.held <= triton_ops.MAX_HELD
        assert plan.slots & (plan.slots - 1) == plan.group & (plan.group - 1) == 0


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
def test_fused_score_of_layers_that_differ(dtype, layout):
    pairs = [features(3, 20, 7, 9, dtype=dtype, seed=i) for i in range(2)] + [features(3, 8, 4, 4, dtype=dtype)]
    if layout != "first":
        last = [tuple(x.to(memory_format=torch.channels_last) for x in pair) for pair in pairs]
        pairs = [last[0], (last[1][0], pairs[1][1]), last[2]] if layout == "mixed" else last
    teacher, student = zip(*pairs, strict=True)
    exact = kernels.fused_score(arrays(*teacher), arrays(*student), size=(21, 30), k=20)
    ours = kernels.fused_score(teacher, student, size=(21, 30), k=20)
    np.testing.assert_allclose(ours.pixel_scores.cpu(), exact.pixel_scores, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(ours.image_score.cpu(), exact.image_score, rtol=2e-5)


def test_more_channels_than_a_program_holds_go_to_torch(monkeypatch):
    for name in ("cosine_map_kernel", "head_input_kernel", "maps_kernel"):
        monkeypatch.setattr(triton_ops, name, None)  # not to be launched
    pair = features(1, triton_ops.MAX_CHANNELS + 1, 1, 2)
    for operation in (kernels.cosine_map, kernels.head_input):
        np.testing.assert_allclose(operation(*pair).cpu(), operation(*arrays(*pair)), rtol=1e-4, atol=1e-5)
    exact = kernels.fused_score([arrays(pair[0])[0]], [arrays(pair[1])[0]], size=(4, 4), k=2)
    ours = kernels.fused_score([pair[0]], [pair[1]], size=(4, 4), k=2)
    np.testing.assert_allclose(ours.image_score.cpu(), exact.image_score, rtol=2e-5)


class Counted:
    """A kernel that counts its launches."""

    def __init__(self, kernel):
        self.kernel, self.launches = kernel, 0

    def __getitem__(self, grid):
        self.launches += 1
        return self.kernel[grid]


@quiet
@pytest.mark.parametrize(
    ("shapes", "launches"), [([(6, 4)] * 3, 3), ([(6, 4), (8, 3), (6, 4)], 4), ([(6, 4)] * 4, 3)]
)
def test_layers_of_one_shape_share_a_launch(shapes, launches, monkeypatch):
    counted = []
    for name in ("cosine_map_kernel", "maps_kernel", "combine_kernel", "maxima_kernel", "topk_mean_kernel"):
        counted.append(Counted(getattr(triton_ops, name)))
        monkeypatch.setattr(triton_ops, name, counted[-1])
    pairs = [features(2, channels, side, side, seed=i) for i, (channels, side) in enumerate(shapes)]
    teacher, student = zip(*pairs, strict=True)
    exact = kernels.fused_score(arrays(*teacher), arrays(*student), size=(9, 9), k=5)
    ours = kernels.fused_score(teacher, student, size=(9, 9), k=5)
    np.testing.assert_allclose(ours.pixel_scores.cpu(), exact.pixel_scores, rtol=2e-5, atol=2e-6)
    assert sum(kernel.launches for kernel in counted) == launches


@pytest.mark.parametrize("channels", [1, 3, 192, 384, 768, 2048, 4096])
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("last", [False, True])
def test_a_program_holds_all_channels_in_whole_sectors_and_few_registers(channels, size, last):
    p, c, warps = triton_ops.feature_block(channels, 1024, size, channels_last=last)
    assert c >= channels
    assert p & (p - 1) == c & (c - 1) == 0
    assert p * c <= triton_ops.MAX_TILE
    assert p * c / (32 * warps) <= 32  # numbers of each tensor a thread
    if not last and c <= 1024:
        assert p * size >= 32


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
    scores = torch.rand(2, 9, device=DEVICE)
    torch.library.opcheck(torch.ops.edge_ad.topk_mean.default, (scores, 2), test_utils=checks)
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
    expected = kernels.fused_score(teacher, student)  # compiles, too
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = kernels.fused_score(teacher, student)
    graph.replay()
    torch.testing.assert_close(captured.image_score, expected.image_score)
    torch.testing.assert_close(captured.pixel_scores, expected.pixel_scores)
