"""The sources of defects by name, and mixtures of them as `ddpm:0.5,texture:0.3,procedural:0.2`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edge_ad.config import SynthesisConfig
from edge_ad.errors import ConfigError
from edge_ad.synthesis.blended import BlendedDefects
from edge_ad.synthesis.defects import AnomalyImages, DefectSource, Frames
from edge_ad.synthesis.procedural import ProceduralDefects
from edge_ad.synthesis.textures import NoiseTextures, OtherNormals, OwnStructure, Textures

NAMES = ("ddpm", "texture", "procedural")


def parse_sources(texts: str | Iterable[str]) -> dict[str, float]:
    """Shares by name, adding up to 1, from "ddpm:0.5,texture:0.5" or from a list of such pieces.

    A name without a share counts 1. Raises ConfigError for an unknown name, a share that is no number or is
    negative, a name given twice, or shares that are all 0.
    """
    pieces = [piece.strip() for text in ([texts] if isinstance(texts, str) else texts) for piece in text.split(",")]
    shares: dict[str, float] = {}
    for piece in filter(None, pieces):
        name, _, number = piece.partition(":")
        if name not in NAMES:
            raise ConfigError(
                f"unknown source of defects '{name}'", f"use {', '.join(NAMES)}, e.g. ddpm:0.5,texture:0.5"
            )
        if name in shares:
            raise ConfigError(f"source '{name}' is given twice", "add its shares up")
        try:
            shares[name] = float(number) if number else 1.0
        except ValueError as error:
            raise ConfigError(f"share of '{name}' is no number: '{number}'", f"write it as {name}:0.5") from error
        if not 0 <= shares[name] < float("inf"):
            raise ConfigError(f"share of '{name}' is {shares[name]}", "shares are numbers from 0 upwards")
    total = sum(shares.values())
    if not total:
        raise ConfigError("no source of defects has a share above 0", f"name one of {', '.join(NAMES)}")
    return {name: share / total for name, share in shares.items() if share}


def build_sources(
    config: SynthesisConfig,
    normals: Frames,
    *,
    generated: AnomalyImages | None = None,
    textures: Path | None = None,
) -> list[tuple[DefectSource, float]]:
    """(source, weight) pairs for `make_triplet`, as the settings ask.

    Args:
        normals: normal frames to take pieces from, uint8 [H,W,3]; only indexed, so it may read them lazily.
        generated: gives the DDPM's images, where the settings name it.
        textures: a folder of pictures to use besides the built-in ones.

    Raises:
        ConfigError: `ddpm` has a share but there are no generated images.
    """
    built: list[tuple[DefectSource, float]] = []
    for name, share in parse_sources(config.sources).items():
        if name == "procedural":
            built.append((ProceduralDefects(), share))
        elif name == "texture":
            built.append((_texture_source(config, normals, textures), share))
        elif generated is not None:
            images: list[tuple[AnomalyImages, float]] = [(generated, 1.0)]
            built.append(
                (BlendedDefects("ddpm", images, opacity=config.diffusion_opacity, edges=config.edges), share)
            )
        else:
            raise ConfigError(
                "the source 'ddpm' needs a trained diffusion model's images",
                "run `edgead synth DATA --source ddpm --out DIR` and give --ddpm DIR/ddpm, or leave ddpm out",
            )
    return built


def _texture_source(config: SynthesisConfig, normals: Frames, folder: Path | None) -> BlendedDefects:
    images: list[tuple[AnomalyImages, float]] = [(OwnStructure(), 0.4), (NoiseTextures(), 0.15)]
    if len(normals):
        images.append((OtherNormals(normals), 0.15))
    photographs = Textures.from_folder(folder) if folder is not None else Textures.from_scikit_image()
    if photographs is not None:
        images.append((photographs, 0.3))
    return BlendedDefects("texture", images, opacity=config.opacity, edges=config.edges)
