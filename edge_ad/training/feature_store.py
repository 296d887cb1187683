"""Teacher features on disk: computed once where nothing changes the images, and kept for a resumed run."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edge_ad.errors import DataError

log = logging.getLogger("edge_ad.training")

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
        self.done = self._finished_before()
        self.arrays: dict[str, np.memmap[Any, Any]] = {}
        if self.done:
            try:
                self.arrays = {name: self._open(name, row, "r+") for name, row in arrays.items()}
            except (OSError, ValueError) as error:
                log.warning("the teacher features in %s are damaged (%s): they are computed again", folder, error)
                self.done = 0
        if not self.done:
            self._create(arrays)

    def _create(self, arrays: dict[str, Row]) -> None:
        sizes = [self.rows * int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in arrays.values()]
        with self._disk_errors(sum(sizes)):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._note.unlink(missing_ok=True)
            if shutil.disk_usage(self.folder).free < sum(sizes) * 1.05:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            for name, row in arrays.items():
                self.arrays[name] = self._open(name, row, "w+")
                if hasattr(os, "posix_fallocate"):  # or a disk that others fill would kill the process, at any row
                    with (self.folder / f"{name}.npy").open("r+b") as file:
                        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)

    def _open(self, name: str, row: Row, mode: Any) -> np.memmap[Any, Any]:
        """The file of one array, memory-mapped; ValueError when what is there is something else."""
        path, shape, dtype = self.folder / f"{name}.npy", (self.rows, *row[0]), np.dtype(row[1])
        size = path.stat().st_size if mode == "r+" else 0  # NumPy fills up with zeros what is cut short
        array = np.lib.format.open_memmap(path, mode=mode, dtype=dtype, shape=shape)
        if (array.shape, array.dtype) != (shape, dtype) or (mode == "r+" and size != array.offset + array.nbytes):
            raise ValueError(f"{path.name} is not what was written: {size} bytes, {array.dtype} {list(array.shape)}")
        return array

    def _finished_before(self) -> int:
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            return int(note["done"]) if note["key"] == self._key else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    @contextmanager
    def _disk_errors(self, needed: float = 0) -> Iterator[None]:
        """DataError with what to do, when the disk is full or not writable."""
        try:
            yield
        except OSError as error:
            wanted = f", {needed / 1e9:.2f} GB for teacher features" if needed else ""
            raise DataError(
                f"can't write to {self.folder}{wanted}: {error.strerror or error}",
                "free some space and go on with --resume, put --out on another disk, or lower training.triplets",
            ) from error

    def fill(self, compute: Callable[[list[int]], dict[str, np.ndarray[Any, Any]]], batch: int, stop: Any) -> int:
        """Compute the missing rows in batches until all are there or `stop()` says so; return how many there are."""
        try:
            while self.done < self.rows and not stop():
                indices = list(range(self.done, min(self.done + batch, self.rows)))
                for name, values in compute(indices).items():
                    self.arrays[name][indices[0] : indices[-1] + 1] = values
                self.done = indices[-1] + 1
                if self.done % (8 * batch) < batch:
                    self._save()
        finally:  # Ctrl-C too keeps what was computed
            self._save()
        return self.done

    def _save(self) -> None:
        temporary = self._note.with_suffix(".tmp")
        with self._disk_errors():
            for array in self.arrays.values():
                array.flush()
            temporary.write_text(json.dumps({"done": self.done, "key": self._key}), encoding="utf-8")
            temporary.replace(self._note)
