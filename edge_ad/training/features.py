"""Teacher features on disk: computed once where nothing changes the images, and kept for a resumed run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge_ad.errors import DataError

Row = tuple[tuple[int, ...], str]  # shape and dtype of one row


class FeatureStore:
    """Rows of equal-shaped arrays in memory-mapped files, filled in order, that survive a killed process.

    arrays: name -> (shape of a row, dtype). key: what the rows depend on; a store with another key is started
    anew. The count of finished rows is written after the rows themselves.
    """

    def __init__(self, folder: Path, rows: int, arrays: dict[str, Row], key: Any) -> None:
        self.folder, self.rows = folder, rows
        self._note = folder / "done.json"
        self._key = json.loads(json.dumps({"key": key, "rows": rows, "arrays": arrays}))
        self.done = self._resume()
        needed = sum(rows * int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in arrays.values())
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if self.done == 0 and free < needed * 1.05:
            raise DataError(
                f"{folder} needs {needed / 1e9:.1f} GB for teacher features, {free / 1e9:.1f} GB are free",
                "free some space, put --out on another disk, or lower training.triplets",
            )
        mode = "r+" if self.done else "w+"
        self.arrays = {
            name: np.lib.format.open_memmap(folder / f"{name}.npy", mode=mode, dtype=dtype, shape=(rows, *shape))
            for name, (shape, dtype) in arrays.items()
        }

    def _resume(self) -> int:
        try:
            note = json.loads(self._note.read_text())
            return int(note["done"]) if note["key"] == self._key else 0
        except (OSError, ValueError, KeyError):
            return 0

    def fill(self, compute: Callable[[list[int]], dict[str, np.ndarray[Any, Any]]], batch: int, stop: Any) -> int:
        """Compute the missing rows in batches until all are there or `stop()` says so; return how many there are."""
        while self.done < self.rows and not stop():
            indices = list(range(self.done, min(self.done + batch, self.rows)))
            for name, values in compute(indices).items():
                self.arrays[name][indices[0] : indices[-1] + 1] = values
            self.done = indices[-1] + 1
            if self.done == self.rows or self.done % (8 * batch) < batch:
                self._save()
        self._save()
        return self.done

    def _save(self) -> None:
        for array in self.arrays.values():
            array.flush()
        temporary = self._note.with_suffix(".tmp")
        temporary.write_text(json.dumps({"done": self.done, "key": self._key}))
        temporary.replace(self._note)
