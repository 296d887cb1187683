import numpy as np
import pytest

from edge_ad.errors import DataError
from edge_ad.training.features import FeatureStore

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
    store._save()
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
    with pytest.raises(DataError, match="GB are free"):
        FeatureStore(tmp_path / "s", 10**9, {"x": ((1000, 1000), "float32")}, "key")
