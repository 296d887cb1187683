"""The little of CUDA that a runner needs, through NVIDIA's cuda-bindings or through pycuda (usual on Jetson)."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge_ad.errors import BackendError


class Device(Protocol):
    """One GPU with one stream. name: as the driver says it. capability: (major, minor). stream: its handle."""

    name: str
    capability: tuple[int, int]
    stream: int

    def pinned(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Page-locked float32 memory of the host, which copies need to be asynchronous."""
        ...

    def allocate(self, size: int) -> int:
        """Address of `size` bytes on the GPU."""
        ...

    def upload(self, address: int, array: npt.NDArray[np.float32]) -> None:
        """Queue a copy to the GPU."""
        ...

    def download(self, array: npt.NDArray[np.float32], address: int) -> None:
        """Queue a copy from the GPU."""
        ...

    def synchronize(self) -> None:
        """Wait until the stream has done all that was queued."""
        ...

    def capture(self, queue: Callable[[], None]) -> Callable[[], None] | None:
        """Record what `queue` queues as a CUDA graph; the result launches it. None where graphs are missing.

        The graph that was captured before is freed: TensorRT's are void once the batch size has changed.
        """
        ...

    def active(self) -> contextlib.AbstractContextManager[None]:
        """Make the GPU current in this thread for a while."""
        ...

    def close(self) -> None:
        """Free all memory that was handed out."""
        ...


def open_device(index: int = 0) -> Device:
    """The GPU, by pycuda where it is installed, else by cuda-bindings; BackendError when neither can."""
    reasons = []
    for kind in (PycudaDevice, BindingsDevice):
        try:
            return kind(index)
        except ImportError as error:
            reasons.append(f"{kind.package}: {error}")
        except BackendError as error:
            reasons.append(f"{kind.package}: {error}")
    raise BackendError(
        f"no NVIDIA GPU can be used ({'; '.join(reasons)})",
        "install the driver, then `pip install cuda-python` (or pycuda); `edgead doctor` says more",
    )


class BindingsDevice:
    """Through `cuda.bindings.runtime` (cuda-python 12.6 and later) or `cuda.cudart` (before)."""

    package = "cuda-python"

    def __init__(self, index: int = 0) -> None:
        try:
            self._cuda: Any = importlib.import_module("cuda.bindings.runtime")
        except ImportError:
            self._cuda = importlib.import_module("cuda.cudart")
        self._index = index
        self._call("cudaSetDevice", index)
        properties = self._call("cudaGetDeviceProperties", index)
        name = properties.name
        self.name = (name.decode() if isinstance(name, bytes) else str(name)).strip("\0")
        self.capability = (int(properties.major), int(properties.minor))
        self._stream = self._call("cudaStreamCreate")
        self.stream = int(self._stream)
        self._device_memory: list[int] = []
        self._host_memory: list[int] = []
        self._graphs: list[Any] = []

    def pinned(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        size = int(np.prod(shape)) * 4
        address = int(self._call("cudaHostAlloc", size, 0))
        self._host_memory.append(address)
        memory: Any = (ctypes.c_float * (size // 4)).from_address(address)
        return np.ctypeslib.as_array(memory).reshape(shape)

    def allocate(self, size: int) -> int:
        address = int(self._call("cudaMalloc", size))
        self._device_memory.append(address)
        return address

    def upload(self, address: int, array: npt.NDArray[np.float32]) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self._stream)

    def download(self, array: npt.NDArray[np.float32], address: int) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self._stream)

    def synchronize(self) -> None:
        self._call("cudaStreamSynchronize", self._stream)

    def capture(self, queue: Callable[[], None]) -> Callable[[], None] | None:
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)
        try:
            queue()
        finally:
            graph = self._call("cudaStreamEndCapture", self._stream)
        ready = self._call("cudaGraphInstantiate", graph, 0)
        self._call("cudaGraphDestroy", graph)
        for old in self._graphs:
            self._call("cudaGraphExecDestroy", old)
        self._graphs = [ready]
        return lambda: self._call("cudaGraphLaunch", ready, self._stream)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        self._call("cudaSetDevice", self._index)  # the runtime's current device is a thread's own
        yield

    def close(self) -> None:
        for graph in self._graphs:
            self._call("cudaGraphExecDestroy", graph)
        for address in self._device_memory:
            self._call("cudaFree", address)
        for address in self._host_memory:
            self._call("cudaFreeHost", address)
        self._call("cudaStreamDestroy", self._stream)
        self._graphs, self._device_memory, self._host_memory = [], [], []

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a CUDA function; its results without the status, or BackendError with CUDA's own words."""
        status, *results = getattr(self._cuda, name)(*arguments)
        if int(status) != 0:
            text = getattr(status, "name", str(status))
            raise BackendError(f"{name} failed: {text} ({int(status)})", "see `nvidia-smi` and `edgead doctor`")
        return results[0] if len(results) == 1 else tuple(results)


class PycudaDevice:
    """Through pycuda, on the GPU's primary context, so that other libraries in the process share it."""

    package = "pycuda"

    def __init__(self, index: int = 0) -> None:
        self._cuda: Any = importlib.import_module("pycuda.driver")
        try:
            self._cuda.init()
            device = self._cuda.Device(index)
            self._context = device.retain_primary_context()
        except self._cuda.Error as error:
            raise BackendError(f"CUDA can't start: {error}", "see `nvidia-smi`") from error
        self.name = str(device.name())
        self.capability = tuple(device.compute_capability())
        with self.active():
            self._stream = self._cuda.Stream()
        self.stream = int(self._stream.handle)
        self._memory: list[Any] = []

    def pinned(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        array: npt.NDArray[np.float32] = self._cuda.pagelocked_empty(shape, np.float32)
        return array

    def allocate(self, size: int) -> int:
        memory = self._cuda.mem_alloc(size)
        self._memory.append(memory)
        return int(memory)

    def upload(self, address: int, array: npt.NDArray[np.float32]) -> None:
        self._cuda.memcpy_htod_async(address, array, self._stream)

    def download(self, array: npt.NDArray[np.float32], address: int) -> None:
        self._cuda.memcpy_dtoh_async(array, address, self._stream)

    def synchronize(self) -> None:
        self._stream.synchronize()

    def capture(self, queue: Callable[[], None]) -> Callable[[], None] | None:
        if not hasattr(self._stream, "begin_capture"):  # pycuda before 2022.2
            return None
        self._stream.begin_capture(self._cuda.capture_mode.THREAD_LOCAL)
        try:
            queue()
        finally:
            graph = self._stream.end_capture()
        ready = graph.instantiate()  # freed with the last reference
        return lambda: ready.launch(self._stream)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        except self._cuda.Error as error:
            raise BackendError(f"CUDA failed: {error}", "see `nvidia-smi` and `edgead doctor`") from error
        finally:
            self._context.pop()

    def close(self) -> None:
        with self.active():
            self._memory.clear()
            self._stream = None
