import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_ad.config import DiffusionConfig
from edge_ad.errors import ArtifactError, DataError, EdgeAdError
from edge_ad.synthesis.diffusion import load_model
from edge_ad.training.diffusion import DiffusionTrainer

torch.set_num_threads(1)  # many threads on few free cores make small networks many times slower

TINY = replace(
    DiffusionConfig.at(32),
    resolution=16,
    channels=(8, 16),
    steps=12,
    batch_size=4,
    warmup_steps=2,
    checkpoint_steps=4,
    sheet_steps=8,
    sample_steps=3,
)
FRAMES = list(np.random.default_rng(0).integers(0, 256, (5, 20, 24, 3), dtype=np.uint8))


def trainer(folder, config=TINY, frames=FRAMES, **more):
    return DiffusionTrainer(frames, config, folder, device="cpu", seed=1, **more)


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "losses.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, trainer(folder).run()


def test_a_run_leaves_model_losses_and_sheets(whole):
    folder, trained = whole
    assert (trained.step, trained.finished) == (12, True)
    assert len(losses(folder)) == 12
    assert (folder / "sheets" / "step-00000008.png").is_file()
    assert len(list(folder.glob("state-*.pt"))) == 2
    assert load_model(folder)[2] == trained.sha256


@pytest.mark.parametrize("predicts", ["v", "noise"])
def test_loss_falls(tmp_path, predicts):
    config = replace(TINY, predicts=predicts, steps=90, checkpoint_steps=1000, sheet_steps=1000, learning_rate=2e-3)
    plain = [np.full((20, 24, 3), level, np.uint8) for level in (60, 90, 120)]
    trainer(tmp_path, config, plain).run()
    values = losses(tmp_path)
    assert np.mean(values[-20:]) < 0.6 * np.mean(values[:5])


def test_stopped_by_time_then_resumed_is_the_same_run(whole, tmp_path):
    first = trainer(tmp_path).run(max_minutes=0)
    assert (first.step, first.finished) == (0, False)
    part = trainer(tmp_path, replace(TINY, steps=6)).run()
    assert part.step == 6
    assert trainer(tmp_path).run().sha256 == whole[1].sha256
    assert losses(tmp_path) == losses(whole[0])


KILLED = """
import os, signal, sys
from pathlib import Path
import edge_ad.artifact as artifact
from tests_of_diffusion import TINY, trainer

replace, write, seen = os.replace, os.fdopen, []

def deadly(source, target):
    if str(target).endswith("state-00000008.pt"):
        os.truncate(source, os.path.getsize(source) // 2)  # half-written
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

artifact.os.replace = deadly
trainer(Path(sys.argv[1])).run()
"""


def test_killed_while_writing_then_resumed_is_the_same_run(whole, tmp_path):
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "tests_of_diffusion.py").write_text(Path(__file__).read_text(encoding="utf-8"))
    folder = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder)],
        env={**os.environ, "PYTHONPATH": str(scripts), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr.decode()
    assert [path.name for path in sorted(folder.glob("state-*"))] == ["state-00000004.json", "state-00000004.pt"]
    said = []
    resumed = trainer(folder, say=said.append)
    assert resumed.step == 4
    assert "step 4" in said[0]
    assert resumed.run().sha256 == whole[1].sha256
    assert losses(folder) == losses(whole[0])


def test_damaged_checkpoint_falls_back_to_the_one_before(whole, tmp_path):
    trainer(tmp_path, replace(TINY, steps=8)).run()
    newest = tmp_path / "state-00000008.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    said = []
    resumed = trainer(tmp_path, say=said.append)
    assert resumed.step == 4
    assert "damaged" in said[0]
    assert resumed.run().sha256 == whole[1].sha256


def test_other_settings_are_not_resumed(tmp_path):
    trainer(tmp_path, replace(TINY, steps=4)).run()
    with pytest.raises(ArtifactError, match="learning_rate"):
        trainer(tmp_path, replace(TINY, learning_rate=0.1))
    with pytest.raises(DataError, match="no normal images"):
        DiffusionTrainer([], TINY, tmp_path)


def test_nan_stops_with_the_step_and_keeps_the_checkpoint(tmp_path):
    running = trainer(tmp_path, replace(TINY, steps=4))
    running.run()
    again = trainer(tmp_path)
    next(iter(again._network.parameters())).data.fill_(math.nan)
    with pytest.raises(EdgeAdError, match=r"nan at step 5; the checkpoint of step 4 is kept"):
        again.run()
    assert trainer(tmp_path).step == 4


FULL = """
import resource, sys
from pathlib import Path
from tests_of_diffusion import TINY, trainer
from edge_ad.errors import ArtifactError

run = trainer(Path(sys.argv[1]))
assert run.step == 4
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))  # as a full disk: writing fails half-way
try:
    run.run()
except ArtifactError as error:
    print(error.message, "|", error.hint)
    sys.exit(7)
"""


def test_full_disk_is_a_clear_error_and_loses_nothing(whole, tmp_path):
    trainer(tmp_path, replace(TINY, steps=4)).run()
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "tests_of_diffusion.py").write_text(Path(__file__).read_text(encoding="utf-8"))
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(scripts), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    assert "can't write" in done.stdout
    assert "disk space" in done.stdout
    assert not list(tmp_path.glob(".state*"))
    assert trainer(tmp_path).run().sha256 == whole[1].sha256


TWO = """
import sys
from pathlib import Path
from tests_of_diffusion import TINY, replace, trainer

running = trainer(Path(sys.argv[1]), replace(TINY, steps=6))
assert running.accelerator.num_processes == 2
running.run()
"""


def test_two_processes_have_the_losses_of_one(whole, tmp_path):
    (tmp_path / "tests_of_diffusion.py").write_text(Path(__file__).read_text(encoding="utf-8"))
    (tmp_path / "two.py").write_text(TWO)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "two.py", "run"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "run") == pytest.approx(losses(whole[0])[:6], rel=1e-5)


def test_ctrl_c_leaves_a_checkpoint_of_that_step(whole, tmp_path):
    def impatient(step, *_):
        if step == 6:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path).run(progress=impatient)
    resumed = trainer(tmp_path)
    assert resumed.step == 6
    assert resumed.run().sha256 == whole[1].sha256
