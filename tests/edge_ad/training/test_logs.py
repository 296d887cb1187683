import pytest

from edge_ad.training.logs import TrainingLog

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def scalars(folder, name):
    events = event_accumulator.EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_every_tenth_step_is_logged(tmp_path):
    with TrainingLog(tmp_path) as log:
        for step in range(1, 31):
            log.write(step, loss=step / 2)
    assert scalars(tmp_path, "loss") == [(10, 5), (20, 10), (30, 15)]


def test_a_resumed_run_replaces_what_the_interrupted_one_logged_too_much(tmp_path):
    with TrainingLog(tmp_path) as log:
        for step in (10, 20, 30):
            log.write(step, loss=1)
    with TrainingLog(tmp_path, first=15) as log:
        log.write(20, loss=2)
    assert scalars(tmp_path, "loss") == [(10, 1), (20, 2)]


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with TrainingLog(None) as log:
        log.write(10, loss=1)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_ends_the_logs_and_not_the_run(tmp_path, monkeypatch, caplog):
    with TrainingLog(tmp_path) as log:

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(log._writer, "add_scalar", full)
        log.write(10, loss=1)
        log.write(20, loss=1)
    assert caplog.text.count("No space left") == 1
