"""What Triton was measured to do faster than plain torch on a GPU, by size: all else runs in torch.

Made from tests/benchmarks/results/kernels_gpu.csv by tests/benchmarks/gpu_choice.py; not to be edited by hand.
"""

TRITON = frozenset(
    {
        ("cosine_map", "large"),
        ("cosine_map", "small"),
        ("cosine_map_last", "large"),
        ("cosine_map_last", "small"),
        ("head_input", "large"),
        ("head_input", "small"),
    }
)
