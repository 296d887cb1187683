"""Every setting of a detector: frozen dataclasses, four presets, TOML in and out."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import tomli_w

from edge_ad.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")

DEVICES = ("auto", "cpu", "cuda")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ModelConfig:
    """The detector's shape. Sizes are (H, W) in pixels; blocks are counted from 0.

    Left open by the paper: taps, bottleneck, decoder, head input and the size at which Top-K is taken.
    """

    teacher: str = "vit_small_patch14_dinov2.lvd142m"  # any timm ViT
    image_size: tuple[int, int] | None = None  # None: fitted to the photos' aspect ratio within `tokens`
    tokens: int = 784  # patches per image when image_size is None
    taps: tuple[int, ...] = (2, 3, 4, 5, 6, 7)  # teacher blocks whose outputs are used
    groups: int = 2  # neighbouring taps are averaged into that many feature maps
    student: Literal["shared", "separate"] = "shared"  # student encoder: the teacher's own pass, or a ViT of its own
    student_pretrained: bool = True  # separate only: start from the teacher's weights
    decoder: Literal["memory", "transformer", "none"] = "memory"
    prototypes: int = 2048  # memory decoder: normal features of each product that it attends to
    decoder_channels: int = 256  # memory decoder: width of its refinement
    decoder_depth: int = 2  # blocks after the memory, or of the transformer decoder
    bottleneck_dropout: float = 0.2  # noise on what the decoder reads
    head: bool = True
    # map: what was learnt on synthetic defects carries over best, since only the discrepancy is seen; product: the
    # paper's, which needs many steps and fresh triplets, or it learns the synthetic defects by heart
    head_input: Literal["product", "map", "both"] = "map"
    head_channels: int = 64
    score_size: tuple[int, int] = (256, 256)  # size of pixel_scores
    top_k: int = 100  # eq. 6, on pixel_scores of score_size
    head_weight: float = 0.25  # share of the head in pixel_scores; the rest is the maps'
    detail: str = ""  # any timm CNN, frozen, for what is finer than a patch; "": none
    detail_weight: float = 1 / 3  # share of its map in what the head leaves; the rest is the cosine map's
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        counts = "tokens", "groups", "prototypes", "decoder_channels", "head_channels", "score_size", "top_k"
        _check(self, "model", counts, 1)
        _check(self, "model", ("taps", "decoder_depth"), 0)
        _check(self, "model", ("bottleneck_dropout", "head_weight", "detail_weight"), 0, 1)
        if not self.taps or self.top_k > self.score_size[0] * self.score_size[1]:
            what = f"taps = {list(self.taps)}, score_size = {list(self.score_size)}, top_k = {self.top_k}"
            raise ConfigError(f"[model] {what}", "name at least one tap, and no more scores than there are pixels")


@dataclass(frozen=True)
class DiffusionConfig:
    """The diffusion model of normal images, and how it is sampled. `at` gives sizes that fit a resolution."""

    resolution: int = 64  # pixels a side, a multiple of 2 ** (len(channels) - 1)
    channels: tuple[int, ...] = (16, 32, 64, 64)  # a level each, halving the size
    layers: int = 1  # residual blocks a level
    attention: tuple[int, ...] = (3,)  # levels with self-attention
    timesteps: int = 1000  # T
    betas: tuple[float, float] = (1e-4, 0.02)  # linear
    # what the network answers with: v = sqrt(a) noise - sqrt(1 - a) x0 (Salimans and Ho 2022) needs far fewer steps
    # than the noise itself until samples are clean; at the optimum they are the same model
    predicts: Literal["v", "noise"] = "v"
    steps: int = 3000
    batch_size: int = 8
    learning_rate: float = 5e-4
    warmup_steps: int = 100
    ema_decay: float = 0.995
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    checkpoint_steps: int = 200
    sheet_steps: int = 500  # between sheets of samples while training
    perturbation: Literal["scale", "add", "ddim"] = "scale"
    strength: tuple[float, float] = (0.1, 0.2)  # s is drawn from this range
    sample_steps: int = 20  # respaced
    start: float = 1.0  # 1: from noise; less: from a normal image with noise of t0 = start * T
    images: int = 64  # anomaly images kept on disk

    def __post_init__(self) -> None:
        counts = "resolution", "channels", "layers", "timesteps", "steps", "batch_size", "sample_steps", "images"
        _check(self, "synthesis.diffusion", (*counts, "checkpoint_steps", "sheet_steps"), 1)
        _check(self, "synthesis.diffusion", ("learning_rate", "warmup_steps", "strength"), 0)
        _check(self, "synthesis.diffusion", ("betas", "ema_decay"), 0, 1)
        _check(self, "synthesis.diffusion", ("start",), 1e-3, 1)

    @classmethod
    def at(cls, resolution: int) -> DiffusionConfig:
        """Sizes for 32, 64, 128 or 256 pixels; 32 and 64 train on a CPU in minutes, the others want a GPU."""
        if resolution not in DIFFUSION_SIZES:
            raise ConfigError(
                f"no diffusion model for {resolution} pixels", f"use one of {', '.join(map(str, DIFFUSION_SIZES))}"
            )
        return dataclasses.replace(cls(), resolution=resolution, **DIFFUSION_SIZES[resolution])


_LONG = {"batch_size": 16, "learning_rate": 2e-4, "ema_decay": 0.9995, "checkpoint_steps": 1000, "sheet_steps": 2500}
DIFFUSION_SIZES: dict[int, dict[str, Any]] = {
    32: {"channels": (16, 32, 32), "attention": (), "steps": 1500, "images": 16, "ema_decay": 0.99},
    64: {},
    128: {"channels": (64, 128, 128, 256, 256), "layers": 2, "attention": (3, 4), "steps": 30000, **_LONG},
    256: {"channels": (64, 128, 128, 256, 256, 512), "layers": 2, "attention": (4, 5), "steps": 60000, **_LONG},
}


@dataclass(frozen=True)
class SynthesisConfig:
    """Where synthetic defects come from and how they are blended (eq. 3)."""

    sources: tuple[str, ...] = ("procedural:0.5", "texture:0.5")  # name:share, shares need not add up to 1
    opacity: tuple[float, float] = (0.2, 1.0)  # delta of eq. 3 is drawn from this range, for textures
    diffusion_opacity: tuple[float, float] = (0.5, 1.0)  # and for the diffusion model's images
    edges: Literal["hard", "feathered", "seamless", "mixed"] = "mixed"  # hard: the paper's binary mask
    visible: float = 10.0  # grey levels out of 255 by which a pixel must change to belong to the mask
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    normal_share: float = 0.5  # training images left without a defect
    foreground: bool = True  # keep defects on the object where the background is plain
    # where triplets are drawn while training. torch: in batches on the training device, at the detector's input size;
    # numpy: one by one on the CPU, at up to 1024 pixels. auto: torch on a GPU
    engine: Literal["auto", "numpy", "torch"] = "auto"

    def __post_init__(self) -> None:
        _check(self, "synthesis", ("opacity", "diffusion_opacity", "normal_share"), 0, 1)
        _check(self, "synthesis", ("visible",), 0, 255)


@dataclass(frozen=True)
class TrainingConfig:
    """Optimiser, schedule, losses."""

    steps: int = 400
    batch_size: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup_steps: int = 50
    schedule: Literal["cosine", "step"] = "cosine"
    two_phase: bool = False  # student first, then head
    cosine_weight: float = 1.0
    focal_weight: float = 1.0
    l1_weight: float = 1.0
    focal_gamma: float = 4.0
    gradient_clip: float = 1.0
    gradient_accumulation: int = 1
    # of student, head and teacher while training; what is inspected afterwards is computed in float32
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    # student, head and losses through torch.compile, on a GPU: fewer launches a step, some minutes before the first
    compile: bool = False
    workers: int | None = None  # threads that make new triplets ahead of the steps; None: 0 on a CPU, else up to 8
    triplets: int = 320  # synthetic images whose teacher features are computed once; 0: new ones in each step
    held_out: float = 0.1  # share of the normals kept for the first threshold
    checkpoint_seconds: float = 45.0
    seed: int = 0

    def __post_init__(self) -> None:
        weights = "cosine_weight", "focal_weight", "l1_weight", "focal_gamma"
        others = "steps", "learning_rate", "weight_decay", "warmup_steps", "triplets", "checkpoint_seconds"
        _check(self, "training", (*weights, *others), 0)
        _check(self, "training", ("batch_size", "gradient_accumulation"), 1)
        _check(self, "training", ("gradient_clip",), 1e-9)
        _check(self, "training", ("held_out",), 0, 0.5)
        _check(self, "training", ("seed",), 0, 2**32 - 1)


@dataclass(frozen=True)
class Config:
    """All settings of one training run."""

    preset: str = "edge"
    model: ModelConfig = field(default_factory=ModelConfig)
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    @classmethod
    def named(cls, preset: str) -> Config:
        """The settings of a preset: `paper`, `edge`, `fast` or `nano`."""
        if preset not in PRESETS:
            raise ConfigError(f"unknown preset '{preset}'", f"use one of: {', '.join(PRESETS)}")
        return PRESETS[preset]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Config:
        """Read nested settings; what is missing keeps its preset's value (default preset `edge`)."""
        base = cls.named(str(data.get("preset", "edge")))
        return read_section(cls, data, "", base)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, for JSON and TOML; settings that are None are left out."""
        return to_plain(self)

    @classmethod
    def from_toml(cls, path: Path | str) -> Config:
        """Read a TOML file with the tables [model], [synthesis] and [training]."""
        return cls.from_dict(read_toml(path))

    def to_toml(self, path: Path | str) -> None:
        """Write all settings."""
        Path(path).write_text(tomli_w.dumps(self.to_dict()), encoding="utf-8")

    def at_batch(self, size: int) -> Config:
        """The same training with batches of `size`: as many images in all, the learning rate by the square root.

        Steps and warm-up become fewer as batches grow by k, the rate grows by sqrt(k), since AdamW divides gradients
        by their own size. Source: Malladi et al., "On the SDEs and scaling rules for adaptive gradient algorithms",
        2022.
        """
        own = self.training
        ratio = size / own.batch_size
        return self.override(
            "training",
            batch_size=size,
            steps=max(1, round(own.steps / ratio)),
            warmup_steps=round(own.warmup_steps / ratio),
            learning_rate=own.learning_rate * math.sqrt(ratio),
        )

    def override(self, section: str, **values: Any) -> Config:
        """A copy with some values of one section replaced; None means unchanged."""
        given = {key: value for key, value in values.items() if value is not None}
        return dataclasses.replace(self, **{section: dataclasses.replace(getattr(self, section), **given)})


def _check(settings: Any, section: str, names: Iterable[str], low: float, high: float = math.inf) -> None:
    """ConfigError for a number, or one of several, that is not finite or out of low..high."""
    for name in names:
        value = getattr(settings, name)
        for one in value if isinstance(value, tuple) else (value,):
            if not (low <= one <= high and math.isfinite(one)):
                bounds = f"from {low:.10g} " + ("upwards" if high == math.inf else f"to {high:.10g}")
                raise ConfigError(f"'{section}.{name}' = {value!r}", f"use what is finite and {bounds}")


def check_device(name: str) -> None:
    """ConfigError for a device that is none of `DEVICES`: cheap, so that it can be said before any work."""
    if name not in DEVICES:
        raise ConfigError(f"unknown device '{name}'", f"use one of: {', '.join(DEVICES)}")


def read_toml(path: Path | str) -> dict[str, Any]:
    """The file's tables; ConfigError when it is missing or no TOML."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))  # editors on Windows begin with a BOM
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}", "check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}", "save it as UTF-8 in the editor") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}", "fix the line it names") from error


def read_section(cls: type[T], data: Mapping[str, Any], where: str, base: T | None = None) -> T:
    """Build the frozen dataclass `cls` from `data`, strictly.

    where: the section's name for messages ("" at the top). base: values for keys that are missing (default:
    the class's defaults). Nested dataclasses are read from nested tables, lists become tuples, whole numbers are
    taken where a float is wanted; anything else must have the field's type.
    Raises ConfigError for an unknown key (naming the nearest one) and for a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    values: dict[str, Any] = {} if base is None else {name: getattr(base, name) for name in names}
    for key, value in data.items():
        path = f"{where}.{key}" if where else key
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            raise ConfigError(
                f"unknown setting '{path}'",
                f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(names)}",
            )
        values[key] = _read_value(hints[key], value, path, values.get(key))
    try:
        return cls(**values)
    except TypeError as error:  # a field without default is missing
        raise ConfigError(f"[{where or cls.__name__}] is incomplete: {error}", "add what is missing") from error


def to_plain(value: Any) -> Any:
    """Dataclasses to dicts, tuples to lists, None left out of dicts."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: to_plain(item) for name, item in items if item is not None}
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def _read_value(hint: Any, value: Any, path: str, base: Any) -> Any:
    if hint is Any:
        return value
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ConfigError(f"'{path}' must be a table, got {value!r}", f"write it as [{path}]")
        return read_section(hint, value, path, base)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _first_that_fits([a for a in arguments if a is not type(None)], value, path, base)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"'{path}' = {value!r}", f"use one of: {', '.join(map(str, arguments))}")
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) == len(value):
            pairs = enumerate(zip(kinds, value, strict=True))
            return tuple(_read_value(kind, item, f"{path}[{i}]", None) for i, (kind, item) in pairs)
    if origin is tuple and dataclasses.is_dataclass(arguments[0]) and isinstance(value, Mapping):
        raise ConfigError(f"'{path}' is one table", f"there may be several: write it as [[{path}]]")
    if origin is dict and isinstance(value, Mapping):
        return {k: _read_value(arguments[1], item, f"{path}.{k}", None) for k, item in value.items()}
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ConfigError(f"'{path}' = {value}", "use a number")
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if type(hint) is type and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ConfigError(f"'{path}' = {value!r} is not of type {_type_name(hint)}", "correct the value")


def _first_that_fits(hints: list[Any], value: Any, path: str, base: Any) -> Any:
    for hint in hints[:-1]:
        try:
            return _read_value(hint, value, path, base)
        except ConfigError:
            continue
    return _read_value(hints[-1], value, path, base)


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and typing.get_origin(hint) is None else str(hint)


# The paper's own set-up: a student encoder of its own, a deep transformer decoder, no memory.
_PAPER = Config(
    preset="paper",
    model=ModelConfig(
        image_size=(252, 252),
        taps=(2, 5, 8),
        groups=3,
        student="separate",
        student_pretrained=True,
        decoder="transformer",
        decoder_depth=4,
        head_input="product",
        head_channels=128,
        head_weight=0.5,
    ),
    synthesis=SynthesisConfig(sources=("ddpm:0.5", "texture:0.25", "procedural:0.25")),
    training=TrainingConfig(
        steps=10000, learning_rate=1e-4, warmup_steps=0, schedule="step", triplets=0, precision="bf16"
    ),
)
_EDGE = Config(preset="edge", model=ModelConfig(taps=(5, 6, 7), groups=1, detail="tf_efficientnet_lite0.in1k"))
# A third of the edge preset's patches, for processors without fast INT8.
_FAST = Config(preset="fast", model=dataclasses.replace(_EDGE.model, tokens=256))
_NANO = Config(
    preset="nano",
    model=ModelConfig(
        teacher="deit_tiny_patch16_224",
        tokens=196,
        prototypes=1024,
        decoder_channels=128,
        decoder_depth=1,
        head_channels=32,
    ),
)
PRESETS = {"paper": _PAPER, "edge": _EDGE, "fast": _FAST, "nano": _NANO}


def cache_folder() -> Path:
    """`$EDGE_AD_CACHE`, or edge_ad in the user's cache folder."""
    if given := os.environ.get("EDGE_AD_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge_ad"
