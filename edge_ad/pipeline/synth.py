"""`synth`: synthetic defects written to a folder, to look at or to train on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_ad.config import SynthesisConfig, check_device, to_plain
from edge_ad.data.samples import scan
from edge_ad.errors import DataError
from edge_ad.progress import NoProgress, Progress
from edge_ad.synthesis.dataset import open_folder, write_triplets
from edge_ad.synthesis.defects import Triplet
from edge_ad.synthesis.quality import feature_check
from edge_ad.synthesis.sources import build_sources, parse_sources
from edge_ad.training.photos import find_photos


def synth(
    photos: str | Path,
    out: str | Path,
    settings: SynthesisConfig | None = None,
    *,
    count: int = 64,
    size: int = 384,
    seed: int = 0,
    ddpm: Path | None = None,
    max_minutes: float | None = None,
    textures: Path | None = None,
    per_shard: int = 0,
    min_feature_distance: float = 0.0,
    weights: str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The manifest of `count` synthetic defects written to folder `out`, with masks and a contact sheet.

    photos: folder with photos of good parts. size: longest side of the images written, in pixels. ddpm: folder of the
    diffusion model to use or go on training, `out`/ddpm by default; max_minutes: at most so long. textures: folder of
    pictures to take textures from. per_shard: above 0, tar files of so many triplets. min_feature_distance: draw
    again what moves the features of a teacher with these weights by less (1 - cos).
    Raises DataError for folders that can't be read or written, ConfigError for settings that can't be.
    """
    progress, photos, out = progress or NoProgress(), Path(photos), Path(out)
    settings = settings or SynthesisConfig()
    check_device(device)
    dataset = scan(photos)
    if "plain" in dataset.layout and out.resolve().is_relative_to(photos.resolve()):
        raise DataError(
            f"{out} lies among the photos, and its defects would be good photos next time", "choose another --out"
        )
    found = find_photos([dataset], lambda text: progress.say(text, "dim"))
    frames = found.frames(size)
    open_folder(out)
    notes: dict[str, Any] = {"data": dataset.name, "settings": to_plain(settings)}
    generated = None
    if "ddpm" in parse_sources(settings.sources):
        from edge_ad.training.anomaly_images import draw_anomaly_images  # noqa: PLC0415  (other sources need no torch)

        generated, notes["ddpm"] = draw_anomaly_images(
            found, settings, ddpm or out / "ddpm", progress, seed=seed, max_minutes=max_minutes, device=device
        )
    sources = build_sources(settings, frames, generated=generated, textures=textures)
    progress.phase("triplets", count)
    return write_triplets(
        out,
        frames,
        sources,
        count,
        seed=seed,
        fault=_feature_check(weights, frames[0].shape, min_feature_distance),
        foreground=settings.foreground,
        visible=settings.visible,
        per_shard=per_shard,
        notes=notes,
        progress=lambda done, of: progress.advance(1),
    )


def _feature_check(weights: str | None, size: tuple[int, ...], least: float) -> Callable[[Triplet], str | None]:
    """The quality control by the teacher's features, where a least distance is asked for."""
    if not least:
        return lambda triplet: None
    from edge_ad.model.frame_features import frame_features  # noqa: PLC0415  (needs torch)

    return feature_check(frame_features(weights, (size[0], size[1])), least)
