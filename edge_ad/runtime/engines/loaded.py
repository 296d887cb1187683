"""Engine: an artifact in memory, shared by stations, replaced by a newer one without missing a part."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_ad.artifact import MANIFEST, Artifact
from edge_ad.data.images import preprocess
from edge_ad.errors import ArtifactError
from edge_ad.runtime.engines.opening import open_runner
from edge_ad.runtime.engines.runner import Outputs, Runner
from edge_ad.runtime.settings import EngineSettings
from edge_ad.runtime.stats import give_memory_back

log = logging.getLogger(__name__)


class LoadedArtifact:
    """One version of the artifact with its runner; preprocessing, graph and thresholds belong together."""

    def __init__(self, artifact: Artifact, runner: Runner) -> None:
        self.artifact, self.runner = artifact, runner
        self.digest = artifact.digest()[:16]
        self._how = artifact.manifest.preprocessing
        self._running = threading.Lock()  # held through an inference
        self._lock = threading.Lock()  # of the counter only: the next part is taken while the engine works
        self._users = 0
        self._retired = False

    def prepare(self, frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """float32 [3, H, W] as the graph takes it, from uint8 [h, w, 3] RGB."""
        return np.asarray(preprocess(frame, self.runner.image_size, self._how.mean, self._how.std))

    def infer(self, images: npt.NDArray[np.float32]) -> Outputs:
        """One call of the graph; stations take turns."""
        with self._running:
            return self.runner(images)

    def acquire(self) -> None:
        """Keep this version open for a part, until `release`."""
        with self._lock:
            self._users += 1

    def release(self) -> None:
        """The part is through; a retired version without parts is closed."""
        with self._lock:
            self._users -= 1
            close = self._retired and self._users == 0
        if close:
            self.runner.close()

    def retire(self) -> None:
        """Close as soon as no part needs it."""
        with self._lock:
            self._retired = True
            close = self._users == 0
        if close:
            self.runner.close()


class Engine:
    """The artifact at a path, opened; `current()` is the version to use for the next part."""

    def __init__(self, path: Path | str, settings: EngineSettings) -> None:
        self.path, self.settings = Path(path), settings
        self._lock = threading.Lock()
        self._stamp = self._manifest_stamp()
        self._loaded = self._load()
        self._warm(self._loaded)
        self.reloads = 0
        self._replaced = True  # loading leaves free memory behind, too
        self.checks: list[Callable[[Artifact], object]] = []  # each may refuse a new version by an EdgeAdError

    def current(self) -> LoadedArtifact:
        """The newest version, taken: call its `release` when the part is through."""
        with self._lock:
            self._loaded.acquire()
            return self._loaded

    @property
    def loaded(self) -> LoadedArtifact:
        """The newest version, to look at."""
        return self._loaded

    def reload_if_changed(self) -> bool:
        """Load the artifact again when its manifest changed; parts go on with the old version meanwhile.

        A new version that is damaged, foreign, doesn't run or fails its self-test is refused, logged, and the old
        one stays.
        """
        if self._replaced:  # by now the old version is gone; its graph was large
            self._replaced = False
            give_memory_back()
        stamp = self._manifest_stamp()
        if stamp == self._stamp or stamp is None:
            return False
        self._stamp = stamp
        try:
            fresh = self._load()
            for check in self.checks:
                check(fresh.artifact)
            self._warm(fresh)
        except Exception as error:  # whatever a half-copied graph makes its engine raise
            self._replaced = True
            log.error("the changed artifact %s was refused, the old one stays in use: %s", self.path, error)
            return False
        with self._lock:
            old, self._loaded = self._loaded, fresh
        old.retire()
        self.reloads += 1
        self._replaced = True
        log.warning("artifact %s was loaded again: %s -> %s", self.path, old.digest, fresh.digest)
        return True

    def force_reload(self) -> None:
        """Make the next `reload_if_changed` load it in any case."""
        self._stamp = (0, 0)

    def close(self) -> None:
        """Free the runner once no part needs it."""
        self._loaded.retire()

    def _load(self) -> LoadedArtifact:
        artifact = Artifact.open(self.path)
        runner = open_runner(artifact, self.settings.backend, self.settings.precision, self.settings.threads)
        if tuple(runner.image_size) != tuple(artifact.manifest.preprocessing.image_size):
            runner.close()
            raise ArtifactError(
                f"the graph takes {tuple(runner.image_size)} pixels, the manifest says "
                f"{tuple(artifact.manifest.preprocessing.image_size)}",
                "export the artifact again",
            )
        return LoadedArtifact(artifact, runner)

    def _warm(self, loaded: LoadedArtifact) -> None:
        height, width = loaded.runner.image_size
        loaded.infer(np.zeros((1, 3, height, width), np.float32))

    def _manifest_stamp(self) -> tuple[int, int] | None:
        try:
            status = (self.path / MANIFEST).stat()
        except OSError:
            return None  # being swapped, or missing: opening it says which
        return status.st_mtime_ns, status.st_ino
