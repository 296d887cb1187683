import dataclasses
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_ad.artifact import photo_key
from edge_ad.config import Config
from edge_ad.data.loader import PhotoReader
from edge_ad.data.samples import Sample
from edge_ad.errors import ConfigError, DataError, EdgeAdError
from edge_ad.model.detector import Detector
from edge_ad.model.weights import find_weights
from edge_ad.synthesis.dataset import NormalFrames, write_triplets
from edge_ad.synthesis.procedural import ProceduralDefects
from edge_ad.synthesis.shards import WrittenTriplets
from edge_ad.training.ahead import Ahead
from edge_ad.training.detector import DetectorTrainer, split_held_out
from edge_ad.training.job import _unseen, train_detector, triplet_maker


class Record:
    """Keeps the losses; may stop the run at a step, as Ctrl-C would."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.losses: list[float] = []
        self.stop_at = stop_at

    def phase(self, name: str, total: int, done: int = 0) -> None:
        self.name = name

    def advance(self, units: int, **numbers: float) -> None:
        if "loss" in numbers:
            self.losses.append(numbers["loss"])
            if len(self.losses) == self.stop_at:
                raise KeyboardInterrupt


def trainer(config: Config, photos: list[Path], folder: Path, record: Record, **options) -> DetectorTrainer:
    torch.manual_seed(0)
    state, _ = find_weights(config.model.teacher, "random")
    detector = Detector(config.model, (64, 96), state)
    maker = triplet_maker(config, NormalFrames(photos, 96, PhotoReader()))
    return DetectorTrainer(config, detector, photos, folder, maker, record, device="cpu", **options)


@pytest.fixture(scope="module")
def photos(tmp_path_factory, write_photos):
    return write_photos(tmp_path_factory.mktemp("photos"), 10)


@pytest.mark.parametrize("changes", [{}, {"student": "separate", "decoder": "transformer"}], ids=["edge", "paper"])
def test_training_is_deterministic_and_an_interrupted_run_goes_on_exactly(changes, tiny_config, photos, tmp_path):
    config = tiny_config.override("model", **changes)
    whole, again, first, second = Record(), Record(), Record(stop_at=2), Record()
    trained = trainer(config, photos, tmp_path / "a", whole)
    trained.run()
    trainer(config, photos, tmp_path / "b", again).run()
    assert again.losses == whole.losses
    assert len(whole.losses) == 4
    with pytest.raises(KeyboardInterrupt):
        trainer(config, photos, tmp_path / "c", first).run()
    resumed = trainer(config, photos, tmp_path / "c", second, resume=True)
    resumed.run()
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
        trainer(config.override("training", precision=precision), photos, tmp_path / precision, record).run()
        losses.append(record.losses)
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0]


def test_losses_fall(tiny_config, photos, tmp_path):
    record = Record()
    config = tiny_config.override("training", steps=80, triplets=1, learning_rate=3e-3)
    trainer(config, photos[:2], tmp_path / "a", record).run()
    assert sum(record.losses[-10:]) < 0.75 * sum(record.losses[:10])


def test_two_phases_train_one_part_at_a_time(tiny_config, photos, tmp_path):
    config = tiny_config.override("training", two_phase=True, weight_decay=0.0)
    run = trainer(config, photos, tmp_path / "a", Record(stop_at=2))
    head = {name: value.clone() for name, value in run.detector.head.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        run.run()
    for name, value in run.detector.head.state_dict().items():
        torch.testing.assert_close(value, head[name], msg=name, rtol=0, atol=0)


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(tiny_config, photos, tmp_path):
    config = tiny_config.override("training", steps=6, checkpoint_seconds=0.0)
    run = trainer(config, photos, tmp_path / "a", Record())
    step = run.train_step

    def poisoned(number, time_used):
        if number == 3:
            with torch.no_grad():
                next(run.detector.head.parameters()).fill_(math.nan)
        return step(number, time_used)

    run.train_step = poisoned
    with pytest.raises(EdgeAdError, match="loss is nan at step 3"):
        run.run()
    saved = torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 3
    assert all(torch.isfinite(value).all() for value in saved["model"].values())


def test_a_damaged_checkpoint_starts_over_and_other_settings_do_not_resume(tiny_config, photos, tmp_path, caplog):
    with pytest.raises(KeyboardInterrupt):
        trainer(tiny_config, photos, tmp_path / "a", Record(stop_at=2)).run()
    (tmp_path / "a" / "checkpoint.pt").write_bytes(b"PK no checkpoint")
    record = Record()
    trainer(tiny_config, photos, tmp_path / "a", record, resume=True).run()
    assert len(record.losses) == 4
    assert "damaged" in caplog.text
    with pytest.raises(ConfigError, match="other settings"):
        trainer(tiny_config.override("training", seed=9), photos, tmp_path / "a", Record(), resume=True)


def test_a_full_disk_is_named_when_the_checkpoint_is_written(tiny_config, photos, tmp_path, monkeypatch):
    run = trainer(tiny_config, photos, tmp_path / "a", Record())

    def full(*_):
        raise RuntimeError("PytorchStreamWriter failed writing file: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(DataError, match="can't write the checkpoint"):
        run.run()
    assert not (tmp_path / "a" / "checkpoint.tmp").exists()


def test_held_out_normals_are_apart_and_seeded():
    paths = [Path(str(i)) for i in range(40)]
    fit, held = split_held_out(paths, 0.1, 0)
    assert len(held) == 4
    assert sorted([*fit, *held]) == sorted(paths)
    assert split_held_out(paths, 0.1, 0) == (fit, held)
    assert split_held_out(paths, 0.1, 1) != (fit, held)
    with pytest.raises(DataError, match="1 usable"):
        split_held_out(paths[:1], 0.1, 0)


def test_broken_photos_are_skipped_and_counted(tiny_config, write_photos, tmp_path, caplog):
    write_photos(tmp_path / "data" / "train" / "good", 6)
    (tmp_path / "data" / "train" / "good" / "zz.png").write_bytes(b"\x89PNG broken")
    trained = train_detector(
        dataclasses.replace(tiny_config),
        [tmp_path / "data"],
        tmp_path / "out",
        Record(),
        device="cpu",
        weights="random",
    )
    assert trained.manifest.training["skipped"] == 1
    photos = {photo_key(path) for path in (tmp_path / "data" / "train" / "good").glob("0*.png")}
    held = {photo_key(sample.path) for sample in trained.held_out}
    assert set(trained.photos.decode().split()) == photos - held  # and the broken one is not among them
    assert trained.manifest.teacher["source"] == "random"
    assert "zz.png" in caplog.text
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="no usable"):
        train_detector(tiny_config, [tmp_path / "empty"], tmp_path / "o", Record(), device="cpu", weights="random")


def test_copies_of_trained_photos_do_not_set_the_first_threshold(write_photos, tmp_path, caplog):
    paths = write_photos(tmp_path, 3)
    paths[1].write_bytes(paths[0].read_bytes())
    _, second, third = (Sample(path, "train", 0, "good", None, "part") for path in paths)
    trained = {photo_key(paths[0])}
    assert _unseen([second, third], trained) == [third]
    assert "1 of 2 held-out photos are copies" in caplog.text
    assert _unseen([second], trained) == [second]  # better than none, and said
    assert "worth nothing" in caplog.text


TWO = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_detector import Record, trainer
from edge_ad.config import Config
config = Config.from_toml({config!r}).override("training", batch_size=int(sys.argv[1]))
record = Record()
photos = sorted(Path({photos!r}).iterdir())
minutes = float(sys.argv[3]) if len(sys.argv) > 3 else None
run = trainer(config, photos, Path(sys.argv[2]), record, max_minutes=minutes)
if minutes:  # this process's clock: the main one's time is over after two steps, the other's never
    run.elapsed = lambda: len(record.losses) * run.limit / 2 if run.accelerator.is_main_process else 0.0
steps = run.run().steps
if minutes:
    print("steps", run.accelerator.process_index, steps, run.optimiser.param_groups[0]["lr"])
if run.accelerator.is_main_process:
    print("losses", *record.losses)
"""


LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def two_processes_script(folder: Path, photos: list[Path]) -> Path:
    text = TWO.format(tests=str(Path(__file__).parent), config=str(folder / "c.toml"), photos=str(photos[0].parent))
    (folder / "two.py").write_text(text)
    return folder / "two.py"


def said(command: list, word: str) -> list[list[str]]:
    """What the command prints after `word`, a list a line."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=120)
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
        run = trainer(config, photos, tmp_path / f"run-{name}", record)
        if name != "drawn":
            written = WrittenTriplets(tmp_path / name)
            torch.manual_seed(0)
            detector = Detector(config.model, (64, 96), find_weights(config.model.teacher, "random")[0])
            run = DetectorTrainer(config, detector, photos, tmp_path / f"run-{name}", written, record, device="cpu")
        result = run.run()
        losses[name] = record.losses
        if name != "drawn" and not changes:
            assert result.triplets == 3
    assert losses["files"] == losses["shards"] != losses["drawn"]


def test_precision_holds_for_the_teacher_features_that_are_computed_once(tiny_config, photos, tmp_path):
    cached = {}
    for precision in ("fp32", "bf16"):
        run = trainer(tiny_config.override("training", precision=precision), photos, tmp_path / precision, Record())
        run.prepare()
        store = run.bank.triplets.arrays
        cached[precision] = torch.from_numpy(store["features"].astype("float32"))
        assert torch.isfinite(torch.from_numpy(store["recalled"].astype("float32"))).all()
    assert not torch.equal(cached["fp32"], cached["bf16"])
    likeness = torch.nn.functional.cosine_similarity(cached["fp32"], cached["bf16"], dim=2)
    assert likeness.min() > 0.999


def test_precision_holds_for_the_teacher_that_is_asked_in_each_step(tiny_config, photos, tmp_path):
    config = tiny_config.override("model", student="separate", decoder="transformer")
    clean = {}
    for precision in ("fp32", "bf16"):
        run = trainer(config.override("training", precision=precision), photos, tmp_path / precision, Record())
        run.prepare()
        batch = run.batch(0)
        assert batch.clean.dtype == batch.corrupt.dtype == torch.float32
        clean[precision] = batch.clean
    assert not torch.equal(clean["fp32"], clean["bf16"])
    assert torch.nn.functional.cosine_similarity(clean["fp32"], clean["bf16"], dim=2).min() > 0.999


def test_resuming_without_a_run_or_with_a_damaged_note_starts_over(tiny_config, photos, tmp_path, caplog):
    with pytest.raises(KeyboardInterrupt):
        trainer(tiny_config, photos, tmp_path / "a", Record(stop_at=2)).run()
    (tmp_path / "a" / "run.json").write_text("{")  # whose checkpoint that is can't be told
    for folder in ("a", "none"):
        record = Record()
        trainer(tiny_config, photos, tmp_path / folder, record, resume=True).run()
        assert len(record.losses) == 4
        assert f"no run in {tmp_path / folder}" in caplog.text


def test_a_folder_that_can_not_be_written_is_named(tiny_config, photos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="can't write to"):
        trainer(tiny_config, photos, tmp_path / "file" / "a", Record())


def test_ctrl_c_while_features_are_computed_keeps_them(tiny_config, photos, tmp_path):
    class Impatient(Record):
        def advance(self, units: int, **numbers: float) -> None:
            self.units = getattr(self, "units", 0) + units
            if self.units > 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(tiny_config, photos, tmp_path / "a", Impatient()).run()
    again = trainer(tiny_config, photos, tmp_path / "a", Record(), resume=True)
    again.bank.open(tmp_path / "a" / "cache", tiny_config.training.triplets, again.key)
    assert again.bank.normals.done == 4  # the first batch; the second was not written when it was interrupted


def test_every_category_keeps_some_normals_out():
    paths = [Path(f"{name}{i}") for name, count in (("a", 90), ("b", 6)) for i in range(count)]
    names = [path.name[0] for path in paths]
    fit, held = split_held_out(paths, 0.1, 0, names)
    assert sorted([*fit, *held]) == sorted(paths)
    assert {name: sum(path.name[0] == name for path in held) for name in "ab"} == {"a": 9, "b": 3}
    with pytest.raises(DataError, match=r"1 usable .* of b"):
        split_held_out(paths[:91], 0.1, 0, names[:91])


def test_ctrl_c_in_the_middle_of_a_step_resumes_exactly(tiny_config, photos, tmp_path):
    whole, first, second = Record(), Record(), Record()
    trainer(tiny_config, photos, tmp_path / "a", whole).run()
    run = trainer(tiny_config, photos, tmp_path / "b", first)
    clip = run.accelerator.clip_grad_norm_

    def impatient(*arguments):
        if len(first.losses) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return clip(*arguments)

    run.accelerator.clip_grad_norm_ = impatient
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert len(first.losses) == 2
    trainer(tiny_config, photos, tmp_path / "b", second, resume=True).run()
    assert first.losses + second.losses == pytest.approx(whole.losses, rel=1e-6)


def test_workers_make_the_same_batches_and_their_errors_stay_whole(tiny_config, photos, tmp_path):
    config = tiny_config.override("model", student="separate", decoder="transformer")
    losses = []
    for workers in (0, 2):
        record = Record()
        trainer(config.override("training", workers=workers), photos, tmp_path / str(workers), record).run()
        losses.append(record.losses)
    assert losses[0] == losses[1]


def test_workers_go_on_from_where_they_are_asked_and_pass_errors_on():
    def make(number):
        if number == 7:
            raise DataError("number 7 is broken", "take another")
        return np.full(3, number)

    ahead = Ahead(make, 2)
    assert [int(ahead.get(number)[0]) for number in (3, 4, 5, 1, 2)] == [3, 4, 5, 1, 2]
    with pytest.raises(DataError, match=r"^number 7 is broken$") as error:
        ahead.get(7)
    assert error.value.hint == "take another"
    ahead.close()
