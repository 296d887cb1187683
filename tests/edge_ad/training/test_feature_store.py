import errno
import os

import numpy as np
import pytest

from edge_ad.errors import DataError
from edge_ad.training.feature_store import FeatureStore

ARRAYS = {"x": ((2, 3), "float32")}


def rows(indices):
    return {"x": np.stack([np.full((2, 3), i, np.float32) for i in indices])}


def never():
    return False


def test_an_interrupted_store_goes_on_where_it_was(tmp_path):
    store = FeatureStore(tmp_path / "s", 10, ARRAYS, "key")
    calls = []

    def compute(indices):
        calls.append(indices)
        if indices[0] >= 4:
            raise KeyboardInterrupt
        return rows(indices)

    with pytest.raises(KeyboardInterrupt):
        store.fill(compute, 2, never)
    again = FeatureStore(tmp_path / "s", 10, ARRAYS, "key")
    assert again.done == 4
    assert again.fill(rows, 2, never) == 10
    np.testing.assert_array_equal(again.arrays["x"][:, 0, 0], np.arange(10))


def test_another_key_starts_anew(tmp_path):
    FeatureStore(tmp_path / "s", 4, ARRAYS, "key").fill(rows, 2, never)
    assert FeatureStore(tmp_path / "s", 4, ARRAYS, "key").done == 4
    assert FeatureStore(tmp_path / "s", 4, ARRAYS, "other").done == 0


def test_stopping_early_keeps_what_is_done(tmp_path):
    store = FeatureStore(tmp_path / "s", 10, ARRAYS, "key")
    assert store.fill(rows, 3, lambda: store.done >= 3) == 3
    assert FeatureStore(tmp_path / "s", 10, ARRAYS, "key").done == 3


def test_too_little_space_is_said_before_any_work(tmp_path):
    with pytest.raises(DataError, match=r"4000\.00 GB for teacher features: No space left"):
        FeatureStore(tmp_path / "s", 10**6, {"x": ((1000, 1000), "float32")}, "key")


@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_damaged_features_are_computed_again(tmp_path, damage, caplog):
    FeatureStore(tmp_path / "s", 40, ARRAYS, "key").fill(rows, 4, never)
    path = tmp_path / "s" / "x.npy"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-300])
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(b"no array at all")
    store = FeatureStore(tmp_path / "s", 40, ARRAYS, "key")
    assert store.done == 0
    assert "damaged" in caplog.text
    store.fill(rows, 4, never)
    np.testing.assert_array_equal(store.arrays["x"][:, 0, 0], np.arange(40))


def test_a_disk_that_others_fill_is_an_error_before_any_work(tmp_path, monkeypatch):
    if not hasattr(os, "posix_fallocate"):
        pytest.skip("this system reserves no space")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match="No space left") as error:
        FeatureStore(tmp_path / "s", 4, ARRAYS, "key")
    assert "--out" in error.value.hint


def test_a_disk_that_fills_up_while_features_are_written_keeps_what_was_finished(tmp_path, monkeypatch):
    store = FeatureStore(tmp_path / "s", 40, ARRAYS, "key")
    store.fill(rows, 4, lambda: store.done >= 8)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_text", full)
        with pytest.raises(DataError, match="No space left"):
            store.fill(rows, 4, never)
    assert FeatureStore(tmp_path / "s", 40, ARRAYS, "key").done == 8
