"""Hugging Face Accelerate as both trainers use it."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState

from edge_ad.config import check_device
from edge_ad.errors import ConfigError


def new_accelerator(device: str, precision: str, gradient_accumulation: int = 1) -> Accelerator:
    """An Accelerator of the given settings, whichever ones a training before it in this process had.

    device: auto, cpu or cuda. precision: fp32, bf16 or fp16, of autocast. Processes that were launched
    together stay connected. Raises ConfigError for cuda without a GPU, and for another device.
    """
    check_device(device)
    # Accelerate keeps one precision for the process and refuses another: a float32 diffusion model, then a bf16
    # detector. Its only way out is this method, which transformers calls too.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision="no" if precision == "fp32" else precision,
        gradient_accumulation_steps=gradient_accumulation,
    )
    if device == "cuda" and accelerator.device.type != "cuda":
        raise ConfigError("--device cuda, but torch sees no GPU", "use --device cpu, or check `edgead doctor`")
    if accelerator.device.type == "cuda":
        # products of float32 matrices in TF32, as convolutions are by default: several times faster from Ampere on
        torch.set_float32_matmul_precision("high")
    return accelerator


def wait_for_all_processes() -> None:
    """Return when all processes of this training have come here; at once where there is only one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        PartialState().wait_for_everyone()
