import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from edge_ad.data.loader import PhotoReader
from edge_ad.data.samples import Sample
from edge_ad.errors import ConfigError, DataError, EdgeAdError
from edge_ad.model.detector import Detector
from edge_ad.model.weights import find_weights
from edge_ad.synthesis.dataset import NormalFrames, write_triplets
from edge_ad.synthesis.procedural import ProceduralDefects
from edge_ad.synthesis.shards import WrittenTriplets
from edge_ad.training import fit
from edge_ad.training.batched_synthesis import PROCEDURAL, TEXTURE
from edge_ad.training.feature_cache import FeatureCache
from edge_ad.training.feature_source import BatchedFeatures
from edge_ad.training.features import extract_features
from edge_ad.training.fit import DetectorTrainer
from edge_ad.training.measure import measure_normals
from edge_ad.training.photos import split_held_out
from edge_ad.training.prefetcher import Prefetcher
from edge_ad.training.run import TrainingRun, run_key
from edge_ad.training.triplets import DrawnTriplets


class Record:
    """Keeps the losses; may stop the run at a step, as Ctrl-C would."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.losses: list[float] = []
        self.stop_at = stop_at

    def phase(self, name: str, total: int, done: int = 0) -> None:
        self.name = name

    def advance(self, units: int, **metrics: float) -> None:
        if "loss" in metrics:
            self.losses.append(metrics["loss"])
            if len(self.losses) == self.stop_at:
                raise KeyboardInterrupt

    def say(self, text: str, style: str = "") -> None: ...


def samples_of(paths: list[Path]) -> list[Sample]:
    return [Sample(path, "train", 0, "good", None, "part") for path in paths]


class Training:
    """The steps from triplets to measured normals, on a CPU, one after the other."""

    def __init__(self, config, photos, folder, record, *, triplets=None, sha256="", **options) -> None:
        torch.manual_seed(0)
        state, _ = find_weights(config.model.teacher, "random")
        self.reader = PhotoReader()
        self.detector = Detector(config.model, (64, 96), state)
        self.triplets = triplets or DrawnTriplets(config, NormalFrames(photos, 96, self.reader))
        samples = samples_of(photos)
        self.fit_on, self.held_out = split_held_out(samples, config.training.held_out, config.training.seed)
        key = run_key(config, samples, self.triplets, sha256)
        self.run = TrainingRun(config, folder, key, record, device="cpu", **options)

    def extract(self):
        self.features = extract_features(self.run, self.detector, self.fit_on, self.triplets, self.reader)
        return self.features

    def trainer(self) -> DetectorTrainer:
        return DetectorTrainer(self.run, self.detector, self.extract())

    def finish(self):
        trainer = self.trainer()
        try:
            result = trainer.optimise()
        finally:
            trainer.close()
        measure_normals(self.run, self.detector, self.held_out, self.reader)
        return result


@pytest.fixture(scope="module")
def photos(tmp_path_factory, write_photos):
    return write_photos(tmp_path_factory.mktemp("photos"), 10)


@pytest.mark.parametrize("changes", [{}, {"student": "separate", "decoder": "transformer"}], ids=["edge", "paper"])
def test_training_is_deterministic_and_an_interrupted_run_goes_on_exactly(changes, tiny_config, photos, tmp_path):
    config = tiny_config.override("model", **changes)
    whole, again, first, second = Record(), Record(), Record(stop_at=2), Record()
    trained = Training(config, photos, tmp_path / "a", whole)
    trained.finish()
    Training(config, photos, tmp_path / "b", again).finish()
    assert again.losses == whole.losses
    assert len(whole.losses) == 4
    with pytest.raises(KeyboardInterrupt):
        Training(config, photos, tmp_path / "c", first).finish()
    resumed = Training(config, photos, tmp_path / "c", second, resume=True)
    assert [step for step, _ in resumed.finish().history] == [1, 2, 3, 4]  # those before the interruption too
    assert (first.losses + second.losses)[-2:] == pytest.approx(whole.losses[-2:], rel=1e-6)
    for (name, one), (_, other) in zip(
        trained.detector.state_dict().items(), resumed.detector.state_dict().items(), strict=True
    ):
        torch.testing.assert_close(one, other, msg=name, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("changes", [{}, {"student": "separate", "decoder": "transformer"}], ids=["edge", "paper"])
@pytest.mark.parametrize("head_input", ["product", "map"])
def test_mixed_precision_learns_nearly_what_float32_does(changes, head_input, tiny_config, photos, tmp_path):
    losses = []
    for precision in ("fp32", "bf16"):
        record = Record()
        config = tiny_config.override("model", head_input=head_input, **changes)
        Training(config.override("training", precision=precision), photos, tmp_path / precision, record).finish()
        losses.append(record.losses)
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0]


def test_losses_fall(tiny_config, photos, tmp_path):
    record = Record()
    config = tiny_config.override("training", steps=80, triplets=1, learning_rate=3e-3)
    Training(config, photos[:2], tmp_path / "a", record).finish()
    assert sum(record.losses[-10:]) < 0.75 * sum(record.losses[:10])


def test_two_phases_train_one_part_at_a_time(tiny_config, photos, tmp_path):
    config = tiny_config.override("training", two_phase=True, weight_decay=0.0)
    run = Training(config, photos, tmp_path / "a", Record(stop_at=2))
    head = {name: value.clone() for name, value in run.detector.head.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        run.finish()
    for name, value in run.detector.head.state_dict().items():
        torch.testing.assert_close(value, head[name], msg=name, rtol=0, atol=0)


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(tiny_config, photos, tmp_path):
    config = tiny_config.override("training", steps=6, checkpoint_seconds=0.0)
    trainer = Training(config, photos, tmp_path / "a", Record()).trainer()
    step = trainer.train_step

    def poisoned(number, time_used):
        if number == 3:
            with torch.no_grad():
                next(trainer.detector.head.parameters()).fill_(math.nan)
        return step(number, time_used)

    trainer.train_step = poisoned
    with pytest.raises(EdgeAdError, match="loss is nan at step 3"):
        trainer.optimise()
    saved = torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 3
    assert all(torch.isfinite(value).all() for value in saved["model"].values())


def test_a_damaged_checkpoint_starts_over_and_other_settings_do_not_resume(tiny_config, photos, tmp_path, caplog):
    with pytest.raises(KeyboardInterrupt):
        Training(tiny_config, photos, tmp_path / "a", Record(stop_at=2)).finish()
    (tmp_path / "a" / "checkpoint.pt").write_bytes(b"PK no checkpoint")
    record = Record()
    Training(tiny_config, photos, tmp_path / "a", record, resume=True).finish()
    assert len(record.losses) == 4
    assert "damaged" in caplog.text
    with pytest.raises(ConfigError, match="other settings"):
        Training(tiny_config.override("training", seed=9), photos, tmp_path / "a", Record(), resume=True)


def test_a_full_disk_is_named_when_the_checkpoint_is_written(tiny_config, photos, tmp_path, monkeypatch):
    trainer = Training(tiny_config, photos, tmp_path / "a", Record()).trainer()

    def full(*_):
        raise RuntimeError("PytorchStreamWriter failed writing file: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(DataError, match="can't write the checkpoint"):
        trainer.optimise()
    assert not (tmp_path / "a" / "checkpoint.tmp").exists()


TWO = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_fit import Record, Training
from edge_ad.config import Config
config = Config.from_toml({config!r}).override("training", batch_size=int(sys.argv[1]))
record = Record()
photos = sorted(Path({photos!r}).iterdir())
minutes = float(sys.argv[3]) if len(sys.argv) > 3 else None
training = Training(config, photos, Path(sys.argv[2]), record, max_minutes=minutes)
run = training.run
if minutes:  # this process's clock: the main one's time is over after two steps, the other's never
    run.elapsed = lambda: len(record.losses) * run.limit / 2 if run.is_main else 0.0
trainer = training.trainer()
steps = trainer.optimise().steps
if minutes:
    print("steps", run.accelerator.process_index, steps, trainer.optimiser.param_groups[0]["lr"])
if run.is_main:
    print("losses", *record.losses)
"""


LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def two_processes_script(folder: Path, photos: list[Path]) -> Path:
    text = TWO.format(tests=str(Path(__file__).parent), config=str(folder / "c.toml"), photos=str(photos[0].parent))
    (folder / "two.py").write_text(text)
    return folder / "two.py"


def said(command: list, word: str) -> list[list[str]]:
    """What the command prints after `word`, a list a line."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    return [line.split()[1:] for line in done.stdout.splitlines() if line.startswith(word)]


def test_two_processes_learn_what_one_learns_from_twice_the_batch(tiny_config, photos, tmp_path):
    config = tiny_config.override("model", bottleneck_dropout=0.0)
    config.to_toml(tmp_path / "c.toml")
    script = two_processes_script(tmp_path, photos)
    runs = {"one": [sys.executable, script, "4", tmp_path / "one"], "two": [*LAUNCH, script, "2", tmp_path / "two"]}
    losses = {name: [float(value) for value in said(run, "losses")[0]] for name, run in runs.items()}
    assert len(losses["one"]) == 4
    assert losses["two"] == pytest.approx(losses["one"], rel=1e-4)


def test_two_processes_stop_at_the_same_step_when_the_time_of_one_is_over(tiny_config, photos, tmp_path):
    tiny_config.to_toml(tmp_path / "c.toml")
    script = two_processes_script(tmp_path, photos)
    first, second = sorted(said([*LAUNCH, script, "2", tmp_path / "run", "1"], "steps"))
    assert first == ["0", "2", first[2]]
    assert second == ["1", *first[1:]]


@pytest.mark.parametrize("changes", [{}, {"student": "separate", "decoder": "transformer"}], ids=["edge", "paper"])
def test_training_takes_triplets_that_were_written_beforehand(changes, tiny_config, photos, tmp_path):
    config = tiny_config.override("model", **changes)
    frames = NormalFrames(photos, 96, PhotoReader())
    for name, per_shard in (("files", 0), ("shards", 2)):
        write_triplets(tmp_path / name, frames, [(ProceduralDefects(), 1.0)], 3, per_shard=per_shard)
    losses = {}
    for name in ("files", "shards", "drawn"):
        record = Record()
        written = None if name == "drawn" else WrittenTriplets(tmp_path / name)
        training = Training(config, photos, tmp_path / f"run-{name}", record, triplets=written)
        trainer = training.trainer()
        trainer.optimise()
        losses[name] = record.losses
        if name != "drawn" and not changes:
            assert trainer.features.cached_triplets == 3
    assert losses["files"] == losses["shards"] != losses["drawn"]


def test_precision_holds_for_the_teacher_features_that_are_computed_once(tiny_config, photos, tmp_path):
    cached = {}
    for precision in ("fp32", "bf16"):
        config = tiny_config.override("training", precision=precision)
        store = Training(config, photos, tmp_path / precision, Record()).extract().triplets.arrays
        cached[precision] = torch.from_numpy(store["features"].astype("float32"))
        assert torch.isfinite(torch.from_numpy(store["recalled"].astype("float32"))).all()
    assert not torch.equal(cached["fp32"], cached["bf16"])
    likeness = torch.nn.functional.cosine_similarity(cached["fp32"], cached["bf16"], dim=2)
    assert likeness.min() > 0.999


def test_precision_holds_for_the_teacher_that_is_asked_in_each_step(tiny_config, photos, tmp_path):
    config = tiny_config.override("model", student="separate", decoder="transformer")
    clean = {}
    for precision in ("fp32", "bf16"):
        own = config.override("training", precision=precision)
        batch = Training(own, photos, tmp_path / precision, Record()).trainer().batch(0)
        assert batch.clean.dtype == batch.corrupt.dtype == torch.float32
        clean[precision] = batch.clean
    assert not torch.equal(clean["fp32"], clean["bf16"])
    assert torch.nn.functional.cosine_similarity(clean["fp32"], clean["bf16"], dim=2).min() > 0.999


def test_resuming_without_a_run_or_with_a_damaged_note_starts_over(tiny_config, photos, tmp_path, caplog):
    with pytest.raises(KeyboardInterrupt):
        Training(tiny_config, photos, tmp_path / "a", Record(stop_at=2)).finish()
    (tmp_path / "a" / "run.json").write_text("{")  # whose checkpoint that is can't be told
    for folder in ("a", "none"):
        record = Record()
        Training(tiny_config, photos, tmp_path / folder, record, resume=True).finish()
        assert len(record.losses) == 4
        assert f"no run in {tmp_path / folder}" in caplog.text


def test_a_folder_that_can_not_be_written_is_named(tiny_config, photos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="can't write to"):
        Training(tiny_config, photos, tmp_path / "file" / "a", Record())


def test_ctrl_c_while_features_are_computed_keeps_them(tiny_config, photos, tmp_path):
    class Impatient(Record):
        def advance(self, units: int, **metrics: float) -> None:
            self.units = getattr(self, "units", 0) + units
            if self.units > 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Training(tiny_config, photos, tmp_path / "a", Impatient()).finish()
    again = Training(tiny_config, photos, tmp_path / "a", Record(), resume=True)
    cache = FeatureCache(again.run, again.detector, again.fit_on, again.triplets, again.reader)
    assert cache.normals.done == 4  # the first batch; the second was not written when it was interrupted


def test_another_teacher_does_not_resume(tiny_config, photos, tmp_path):
    """The features of two teachers must not meet in one cache."""
    with pytest.raises(KeyboardInterrupt):
        Training(tiny_config, photos, tmp_path / "a", Record(stop_at=2), sha256="1").finish()
    with pytest.raises(ConfigError, match="teacher's weights"):
        Training(tiny_config, photos, tmp_path / "a", Record(), sha256="2", resume=True)
    record = Record()
    Training(tiny_config, photos, tmp_path / "a", record, sha256="1", resume=True).finish()
    assert len(record.losses) == 2


def test_triplets_stay_on_the_normals_that_there_was_time_for(tiny_config, photos, tmp_path, caplog):
    """A resumed run with more time must not draw further triplets on other normals than the first ones rest on."""
    first = Training(tiny_config, photos, tmp_path / "a", Record(), max_minutes=1)
    first.run.elapsed = lambda: 0.5 * first.run.limit
    first.run.elapsed = iter([0.0, *[0.5 * first.run.limit] * 99]).__next__  # time for one batch of normals
    kept = first.extract()
    assert len(kept.samples) == 4
    assert "time allows 4 of 6 normals" in caplog.text
    again = Training(tiny_config, photos, tmp_path / "a", Record(), resume=True).extract()
    assert again.samples == kept.samples
    assert again.recalls.done == 4


def test_ctrl_c_in_the_middle_of_a_step_resumes_exactly(tiny_config, photos, tmp_path):
    whole, first, second = Record(), Record(), Record()
    Training(tiny_config, photos, tmp_path / "a", whole).finish()
    training = Training(tiny_config, photos, tmp_path / "b", first)
    clip = training.run.accelerator.clip_grad_norm_

    def impatient(*arguments):
        if len(first.losses) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return clip(*arguments)

    training.run.accelerator.clip_grad_norm_ = impatient
    with pytest.raises(KeyboardInterrupt):
        training.finish()
    assert len(first.losses) == 2
    Training(tiny_config, photos, tmp_path / "b", second, resume=True).finish()
    assert first.losses + second.losses == pytest.approx(whole.losses, rel=1e-6)


@pytest.fixture
def batched_config(tiny_config):
    """A student encoder of its own, and triplets drawn in batches by PyTorch."""
    config = tiny_config.override("model", student="separate", decoder="transformer", bottleneck_dropout=0.0)
    return config.override("synthesis", engine="torch")


class Waits(TorchDispatchMode):
    """Counts what would wait for a GPU (a number asked for, positions found), and operations that compute."""

    def __init__(self):
        super().__init__()
        self.waits, self.operations = [], 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = str(function)
        self.operations += not (function.is_view or ".empty" in name or "detach" in name)
        if any(word in name for word in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal.default", "unique")):
            self.waits.append(name)
        return function(*arguments, **(options or {}))


def test_triplets_of_the_device_are_deterministic_and_resume_exactly(batched_config, photos, tmp_path):
    whole, first, second = Record(), Record(stop_at=2), Record()
    trained = Training(batched_config, photos, tmp_path / "a", whole)
    trained.finish()
    assert isinstance(trained.features, BatchedFeatures)
    with pytest.raises(KeyboardInterrupt):
        Training(batched_config, photos, tmp_path / "b", first).finish()
    Training(batched_config.override("training", workers=2), photos, tmp_path / "b", second, resume=True).finish()
    assert first.losses + second.losses == pytest.approx(whole.losses, rel=1e-6)


def test_batches_of_the_device_are_what_the_rows_say(batched_config, photos, tmp_path):
    training = Training(batched_config.override("training", batch_size=8), photos, tmp_path / "a", Record())
    features, indices = training.extract(), [0, 1, 2, 3, 4, 5, 17, 100]
    defective = [True, True, True, True, True, True, False, False]
    rows = features.assemble(indices, defective)
    assert set(rows["kinds"][:6].tolist()) == {TEXTURE, PROCEDURAL}
    batch = features.batch(rows)
    changed = (batch.clean != batch.corrupt).flatten(1).any(1)
    assert changed.tolist() == (batch.masks.flatten(1).sum(1) > 0).tolist() == defective
    again = features.batch(features.assemble(indices[:3], defective[:3]))
    torch.testing.assert_close(again.images, batch.images[:3], atol=0.05, rtol=0)  # whatever the batch
    torch.testing.assert_close(again.clean, batch.clean[:3], atol=1e-3, rtol=1e-3)
    normal = features._extract(batch.images[6:])
    torch.testing.assert_close(batch.clean[6:], normal, atol=1e-3, rtol=1e-3)


def test_a_step_waits_for_nothing_and_a_look_at_the_losses_once(batched_config, photos, tmp_path, monkeypatch):
    asked = []
    for name in ("tolist", "cpu", "item"):  # not numpy: the CPU kernels read tensors by it
        method = getattr(torch.Tensor, name)

        def watched(tensor, *arguments, method=method, name=name):
            asked.append(name)
            return method(tensor, *arguments)

        monkeypatch.setattr(torch.Tensor, name, watched)

    def operations(size):
        config = batched_config.override("training", batch_size=size, steps=10, workers=1)
        trainer = Training(config, photos, tmp_path / str(size), Record()).trainer()
        trainer.train_step(0)  # constants go to the device once
        asked.clear()
        with Waits() as seen:
            trainer.train_step(1)
            losses = trainer.train_step(2)
        assert seen.waits == []
        assert asked == []
        trainer.read(losses)
        assert asked == ["tolist"]
        trainer.close()
        return seen.operations / 2

    few, many = operations(2), operations(8)
    assert many == pytest.approx(few, rel=0.1)  # launches don't grow with the batch
    assert many < 4000


@pytest.mark.filterwarnings("ignore::UserWarning")  # the compiler's, of the CPU kernels that it runs as they are
def test_a_compiled_step_learns_what_a_plain_one_does(tiny_config, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "COMPILED_ON", ("cpu",))
    monkeypatch.setattr(fit, "COMPILER", "aot_eager")  # the whole way but for generating code
    plain = tiny_config.override("model", bottleneck_dropout=0.0)
    losses = []
    for compiled in (False, True):
        record = Record()
        config = plain.override("training", compile=compiled, steps=2)
        training = Training(config, photos, tmp_path / str(compiled), record)
        training.trainer().optimise()
        losses.append(record.losses)
    torch.compiler.reset()
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_losses_may_be_read_every_few_steps(tiny_config, photos, tmp_path):
    results = []
    for every in (1, 3):
        record = Record()
        trainer = Training(tiny_config, photos, tmp_path / str(every), record).trainer()
        trainer.read_every = every
        result = trainer.optimise()
        assert result.steps == 4
        results.append((record.losses, [p.detach().clone() for p in trainer.parameters]))
    (each, first), (some, second) = results
    assert some == [each[2], each[3]]
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_failed_loss_is_named_by_its_step_when_it_is_read_later(tiny_config, photos, tmp_path):
    config = tiny_config.override("training", steps=6, checkpoint_seconds=0.0)
    trainer = Training(config, photos, tmp_path / "a", Record()).trainer()
    trainer.read_every = 3
    step = trainer.train_step

    def poisoned(number, time_used):
        if number == 4:
            with torch.no_grad():
                next(trainer.detector.head.parameters()).fill_(math.nan)
        return step(number, time_used)

    trainer.train_step = poisoned
    with pytest.raises(EdgeAdError, match="loss is nan at step 4"):
        trainer.optimise()
    saved = torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 3
    assert all(torch.isfinite(value).all() for value in saved["model"].values())


def test_the_cache_may_be_filled_by_the_device(tiny_config, photos, tmp_path):
    config = tiny_config.override("synthesis", engine="torch")
    cache = Training(config, photos, tmp_path / "a", Record()).extract()
    assert cache.cached_triplets == 8
    assert (cache.triplets.arrays["masks"][:].reshape(8, -1).max(1) > 0).all()


def test_two_processes_share_the_triplets_of_the_device(batched_config, photos, tmp_path):
    batched_config.to_toml(tmp_path / "c.toml")
    script = two_processes_script(tmp_path, photos)
    runs = {"one": [sys.executable, script, "4", tmp_path / "one"], "two": [*LAUNCH, script, "2", tmp_path / "two"]}
    losses = {name: [float(value) for value in said(run, "losses")[0]] for name, run in runs.items()}
    assert losses["two"] == pytest.approx(losses["one"], rel=1e-3)


def test_workers_make_the_same_batches_and_their_errors_stay_whole(tiny_config, photos, tmp_path):
    config = tiny_config.override("model", student="separate", decoder="transformer")
    losses = []
    for workers in (0, 2):
        record = Record()
        Training(config.override("training", workers=workers), photos, tmp_path / str(workers), record).finish()
        losses.append(record.losses)
    assert losses[0] == losses[1]


def test_workers_go_on_from_where_they_are_asked_and_pass_errors_on():
    def make(number):
        if number == 7:
            raise DataError("number 7 is broken", "take another")
        return np.full(3, number)

    prefetcher = Prefetcher(make, 2)
    assert [int(prefetcher.get(number)[0]) for number in (3, 4, 5, 1, 2)] == [3, 4, 5, 1, 2]
    with pytest.raises(DataError, match=r"^number 7 is broken$") as error:
        prefetcher.get(7)
    assert error.value.hint == "take another"
    prefetcher.close()
