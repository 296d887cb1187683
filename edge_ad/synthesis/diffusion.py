"""The diffusion model of normal images: its network, its schedule, and perturbed sampling of anomaly images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from edge_ad.artifact import write_atomically
from edge_ad.config import DiffusionConfig, read_section, to_plain
from edge_ad.errors import ArtifactError, ConfigError
from edge_ad.synthesis.defects import Frame, Frames

WEIGHTS = "weights.safetensors"
SETTINGS = "diffusion.json"
TRAIN_AGAIN = "train it again: `edgead synth DATA --source ddpm --out DIR`"


def build_network(config: DiffusionConfig) -> Any:
    """An untrained network: x_t [B,3,R,R] in -1..1 and t [B] -> what `config.predicts` says [B,3,R,R] (`.sample`).

    Raises ConfigError when the resolution can't be halved as often as there are levels.
    """
    levels = len(config.channels)
    if config.resolution % 2 ** (levels - 1) or any(width % 8 for width in config.channels):
        raise ConfigError(
            f"resolution {config.resolution} and channels {list(config.channels)} don't go together",
            f"use a multiple of {2 ** (levels - 1)} pixels and channels that are multiples of 8",
        )
    attends = [level in config.attention for level in range(levels)]
    return UNet2DModel(
        sample_size=config.resolution,
        in_channels=3,
        out_channels=3,
        layers_per_block=config.layers,
        block_out_channels=config.channels,
        down_block_types=tuple("AttnDownBlock2D" if yes else "DownBlock2D" for yes in attends),
        up_block_types=tuple("AttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(attends)),
        norm_num_groups=min(32, config.channels[0] // 2),
        attention_head_dim=8,
        add_attention=bool(config.attention),
    )


def build_schedule(config: DiffusionConfig) -> Any:
    """q(x_t | x_0) (equation 1): T steps of linear betas; `add_noise`, `alphas_cumprod` [T]."""
    first, last = config.betas
    return DDPMScheduler(
        num_train_timesteps=config.timesteps, beta_start=first, beta_end=last, beta_schedule="linear"
    )


def training_target(config: DiffusionConfig, x0: Tensor, noise: Tensor, cumulative: Tensor) -> Tensor:
    """The network's training target for x_t, noise or v [B,C,H,W]; cumulative: alphas_cumprod at t, [B]."""
    if config.predicts == "noise":
        return noise
    a = cumulative.to(x0).view(-1, 1, 1, 1)
    return a.sqrt() * noise - (1 - a).sqrt() * x0


def predicted_noise(config: DiffusionConfig, answer: Tensor, x_t: Tensor, now: float) -> Tensor:
    """The noise in x_t by the network's answer; now: alphas_cumprod at t."""
    return answer if config.predicts == "noise" else now**0.5 * answer + (1 - now) ** 0.5 * x_t


def to_tensor(frames: Sequence[Frame]) -> Tensor:
    """Frames uint8 [H,W,3] of one size -> [B,3,H,W] float32 in -1..1."""
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_frames(x: Tensor) -> list[Frame]:
    """[B,3,H,W] in -1..1 -> frames uint8 [H,W,3]."""
    levels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return list(levels.permute(0, 2, 3, 1).cpu().numpy())


def reverse_step(
    x_t: Tensor,
    noise: Tensor,
    z: Tensor,
    now: float,
    before: float,
    s: Tensor | float,
    perturbation: str = "scale",
) -> Tensor:
    """One respaced reverse step with constant-variance perturbation: x at the next, less noisy time.

    x0 = clip((x_t - sqrt(1 - now) noise) / sqrt(now), -1, 1); alpha = now / before; beta = 1 - alpha
    mu = sqrt(before) beta / (1 - now) x0 + sqrt(alpha) (1 - before) / (1 - now) x_t
    sigma^2 = (1 - before) / (1 - now) beta
    scale: mu + sqrt(1 + s) sigma z      add: mu + sqrt(sigma^2 + s^2) z
    ddim: sqrt(before) x0 + sqrt(1 - before) noise + sqrt(s) sigma z
    At the last step (before = 1) nothing is added. s = 0 gives the ancestral sampler, or DDIM with eta = 0.

    Args:
        x_t, noise, z: [B,C,H,W]: the noisy image, the noise predicted in it, standard normal noise.
        now, before: alphas_cumprod at t and at the next time, 0 < now < before <= 1.
        s: strength, a number or [B,1,1,1].

    Raises:
        ValueError: unknown perturbation.

    Source: the paper, equation 2, its "constant-variance Gaussian perturbation" read after RealNet's SDAS
    (`scale`) and literally (`add`); Ho et al. 2020, equations 6 and 7; Song et al. 2021, equation 12.
    """
    x0 = ((x_t - (1 - now) ** 0.5 * noise) / now**0.5).clamp(-1, 1)
    alpha = now / before
    sigma = ((1 - before) / (1 - now) * (1 - alpha)) ** 0.5
    strength = torch.as_tensor(s, dtype=x_t.dtype, device=x_t.device)
    if perturbation == "ddim":
        mean = before**0.5 * x0 + (1 - before) ** 0.5 * noise
        spread = strength.sqrt() * sigma
    elif perturbation in ("scale", "add"):
        mean = before**0.5 * (1 - alpha) / (1 - now) * x0 + alpha**0.5 * (1 - before) / (1 - now) * x_t
        spread = (1 + strength).sqrt() * sigma if perturbation == "scale" else (sigma**2 + strength**2).sqrt()
    else:
        raise ValueError(f"unknown perturbation '{perturbation}': use scale, add or ddim")
    return mean if before == 1 else mean + spread * z


def respaced_timesteps(config: DiffusionConfig, steps: int | None = None) -> list[int]:
    """Times from noisy to clean, `sample_steps` of them for the whole of T, down to 0; fewer if start < 1."""
    if not 0 < config.start <= 1:
        raise ConfigError(f"start is {config.start}", "1 starts from noise, 0.3 to 0.5 from a normal image")
    first = max(1, round(config.start * config.timesteps)) - 1
    count = max(2, round((steps or config.sample_steps) * config.start))
    times = np.linspace(first, 0, count).round().astype(int)
    return sorted({int(time) for time in times}, reverse=True)


@dataclass(frozen=True)
class SampleRequest:
    """What one anomaly image is sampled from: seed, perturbation s, and the normal image it starts at."""

    seed: int
    s: float
    origin: Frame | None = None


@torch.no_grad()
def sample(
    network: Any, config: DiffusionConfig, requests: Sequence[SampleRequest], *, steps: int | None = None
) -> list[Frame]:
    """Anomaly images P, uint8 [R,R,3], one a drawing; each depends on its own drawing alone.

    Args:
        network: of `build_network`, in eval mode.
        requests: `origin` (uint8 [R,R,3]) is needed where config.start < 1.
        steps: instead of config.sample_steps.
    """
    device = next(network.parameters()).device
    cumulative = build_schedule(config).alphas_cumprod.double()
    generators = [torch.Generator().manual_seed(request.seed) for request in requests]
    shape = (3, config.resolution, config.resolution)

    def normal_noise() -> Tensor:
        return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device)

    times = respaced_timesteps(config, steps)
    x_t = normal_noise()
    if config.start < 1:
        origins = [request.origin for request in requests if request.origin is not None]
        if len(origins) < len(requests):
            raise ConfigError("start < 1 needs a normal image for each drawing", "set start = 1, or give them")
        level = float(cumulative[times[0]])
        x_t = level**0.5 * to_tensor(origins).to(device) + (1 - level) ** 0.5 * x_t
    s = torch.tensor([request.s for request in requests], device=device).view(-1, 1, 1, 1)
    for index, time in enumerate(times):
        before = float(cumulative[times[index + 1]]) if index + 1 < len(times) else 1.0
        now = float(cumulative[time])
        noise = predicted_noise(config, network(x_t, time).sample, x_t, now)
        x_t = reverse_step(x_t, noise, normal_noise(), now, before, s, config.perturbation)
    return to_frames(x_t)


def batch_sampler(
    network: Any, config: DiffusionConfig, frames: Frames
) -> Callable[[Sequence[int]], list[tuple[Frame, float, int]]]:
    """What a cache is filled by: seeds -> (anomaly image, its s, index of the normal it started from or -1).

    Args:
        frames: normal images to start from where config.start < 1, uint8 of any size; else unused.
    """

    def draw(seeds: Sequence[int]) -> list[tuple[Frame, float, int]]:
        requests, origins = [], []
        for seed in seeds:
            rng = np.random.default_rng([seed, 7])
            s = float(rng.uniform(*config.strength))
            number = int(rng.integers(len(frames))) if config.start < 1 and len(frames) else -1
            origin = resize_square(frames[number], config.resolution) if number >= 0 else None
            requests.append(SampleRequest(seed, s, origin))
            origins.append(number)
        images = sample(network, config, requests)
        return [(image, d.s, origin) for image, d, origin in zip(images, requests, origins, strict=True)]

    return draw


def sampler_settings(config: DiffusionConfig) -> str:
    """The settings that change a drawn image, as text: a cache is valid for one such text."""
    names = ("resolution", "perturbation", "strength", "sample_steps", "start")
    return json.dumps({name: to_plain(getattr(config, name)) for name in names})


def resize_square(frame: Frame, resolution: int) -> Frame:
    """The frame resized to a square, uint8 [R,R,3], antialiased."""
    resized: Frame = cv2.resize(frame, (resolution, resolution), interpolation=cv2.INTER_AREA)
    return resized


def hash_images(images: Tensor) -> str:
    """SHA-256 of the images [B,3,R,R] that a model is trained on."""
    return hashlib.sha256(images.numpy().tobytes()).hexdigest()


def save_model(network: Any, config: DiffusionConfig, folder: Path, step: int = 0, images: str = "") -> str:
    """Write weights and settings, each whole or not at all; the weights' sha256.

    step: how far it was trained. images: `hash_images` of what it was trained on.
    """
    state = {name: value.detach().contiguous().cpu() for name, value in network.state_dict().items()}
    data = save(state)
    digest = hashlib.sha256(data).hexdigest()
    write_atomically(folder / WEIGHTS, data)
    record = {"sha256": digest, "step": step, "images": images, "diffusion": to_plain(config)}
    write_atomically(folder / SETTINGS, json.dumps(record, indent=2).encode())
    return digest


def _config_of(record: dict[str, Any]) -> DiffusionConfig:
    """A model's settings as written beside its weights; those that don't say what they predict predict noise."""
    return read_section(DiffusionConfig, {"predicts": "noise", **record["diffusion"]}, "diffusion")


def is_trained(folder: Path, config: DiffusionConfig) -> bool:
    """Whether the folder holds a model of this network and schedule, trained for at least the steps asked for."""
    try:
        record = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        found = _config_of(record)
        names = ("resolution", "channels", "layers", "attention", "timesteps", "betas", "predicts")
        same = all(getattr(found, name) == getattr(config, name) for name in names)
        return same and int(record["step"]) >= config.steps
    except (OSError, ValueError, KeyError, TypeError, ConfigError):
        return False


def is_trained_on(folder: Path, frames: Frames) -> bool:
    """Whether the folder's model was trained on these frames; True where it does not say."""
    try:
        record = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        known, side = str(record.get("images", "")), int(record["diffusion"]["resolution"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return True
    return not known or known == hash_images(to_tensor([resize_square(frames[i], side) for i in range(len(frames))]))


def load_model(folder: Path, device: torch.device | str = "cpu") -> tuple[Any, DiffusionConfig, str]:
    """(network in eval mode, its settings, the weights' sha256), the hash being checked.

    Raises ArtifactError when a file is missing, damaged or doesn't fit the settings.
    """
    config, data, digest = read_model(folder)
    network = build_network(config)
    try:
        network.load_state_dict(load(data))
    except (RuntimeError, SafetensorError) as error:
        raise ArtifactError(f"{folder / WEIGHTS} doesn't fit its settings: {error}", TRAIN_AGAIN) from error
    return network.to(device).eval(), config, digest


def read_model(folder: Path) -> tuple[DiffusionConfig, bytes, str]:
    """(a model's settings, its weights as safetensors, their sha256), the hash being checked.

    Raises ArtifactError when a file is missing or damaged.
    """
    try:
        record = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        data = (folder / WEIGHTS).read_bytes()
        digest = str(record["sha256"])
        config = _config_of(record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"no diffusion model can be read from {folder}: {error}", TRAIN_AGAIN) from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise ArtifactError(f"{folder / WEIGHTS} is damaged: its sha256 differs from the recorded one", TRAIN_AGAIN)
    return config, data, digest
