"""GigE Vision and USB3 Vision cameras through GenICam (`pip install harvesters` and the maker's .cti producer).

Not run on a camera by this project's tests, which have none: they check the conversions and the messages.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.errors import BackendError
from edge_ad.runtime.optional import need
from edge_ad.runtime.settings import SourceSettings
from edge_ad.runtime.sources.base import Picture, Source, SourceLost

# GenICam names a Bayer pattern by its first row; OpenCV by the second row's second and third pixel.
BAYER = {
    "BayerRG": cv2.COLOR_BayerBG2RGB,
    "BayerBG": cv2.COLOR_BayerRG2RGB,
    "BayerGR": cv2.COLOR_BayerGB2RGB,
    "BayerGB": cv2.COLOR_BayerGR2RGB,
}
BITS = {"8": 8, "10": 10, "12": 12, "14": 14, "16": 16}


class GenicamSource(Source):
    """`genicam://SERIAL`, or `genicam://` for the only camera.

    Producers (.cti) are looked for in the folders of GENICAM_GENTL64_PATH, where the makers' installers put them.
    """

    live = True

    def __init__(self, settings: SourceSettings, serial: str) -> None:
        self.settings, self.serial = settings, serial
        self.name = f"genicam://{serial}"
        self.longest_s = settings.timeout_s
        self._harvester: Any = None
        self._acquirer: Any = None
        self._number = 0

    def open(self) -> None:
        """Find the camera, set it up, start it."""
        self.close()
        core = need("harvesters.core", why=self.name, install="harvesters")
        producers = find_producers()
        if not producers:
            raise BackendError(
                "no GenTL producer (.cti) was found",
                "install the camera maker's driver and set GENICAM_GENTL64_PATH to its folder",
            )
        self._harvester = core.Harvester()
        try:
            for path in producers:
                self._harvester.add_file(str(path))
            self._harvester.update()
            self._acquirer = self._harvester.create({"serial_number": self.serial} if self.serial else 0)
            self._configure(self._acquirer.remote_device.node_map)
            self._acquirer.num_buffers = max(self.settings.queue, 3)
            self._acquirer.start()
        except Exception as error:  # harvesters and producers raise their own kinds
            self.close()
            raise SourceLost(f"{self.name} can't be opened: {error}", "is it plugged in, powered, unused?") from error

    def read(self) -> Picture | None:
        """The next frame; its buffer goes back to the driver at once."""
        if self._acquirer is None:
            raise SourceLost(f"{self.name} is not open", "open it first")
        try:
            with self._acquirer.fetch(timeout=self.settings.timeout_s) as buffer:
                captured_ns, time_ns = time.monotonic_ns(), time.time_ns()
                part = buffer.payload.components[0]
                frame = to_rgb(np.asarray(part.data).reshape(part.height, part.width, -1), part.data_format)
        except BackendError:
            raise
        except Exception as error:
            raise SourceLost(
                f"{self.name} sends no frames: {error}", "check cable, power and trigger mode"
            ) from error
        self._number += 1
        return Picture(frame, self._number - 1, time_ns, captured_ns)

    def close(self) -> None:
        """Stop the camera and unload the producers."""
        for thing, method in ((self._acquirer, "destroy"), (self._harvester, "reset")):
            if thing is not None:
                try:
                    getattr(thing, method)()
                except Exception as error:
                    raise BackendError(f"{self.name} did not close: {error}", "unplug it") from error
        self._acquirer = self._harvester = None

    def _configure(self, nodes: Any) -> None:
        wanted = self.settings
        values: dict[str, Any] = {}
        if wanted.width and wanted.height:
            values |= {"Width": wanted.width, "Height": wanted.height}
        if wanted.format:
            values["PixelFormat"] = wanted.format
        if wanted.exposure is not None:
            values |= {"ExposureAuto": "Off", "ExposureTime": wanted.exposure}
        if wanted.fps:
            values |= {"AcquisitionFrameRateEnable": True, "AcquisitionFrameRate": wanted.fps}
        for name, value in values.items():
            node = getattr(nodes, name, None)
            if node is not None:  # not every camera has every node
                node.value = value


def find_producers() -> list[Path]:
    """The .cti files in the folders of GENICAM_GENTL64_PATH."""
    folders = [Path(folder) for folder in os.environ.get("GENICAM_GENTL64_PATH", "").split(os.pathsep) if folder]
    return sorted(path for folder in folders if folder.is_dir() for path in folder.glob("*.cti"))


def to_rgb(data: npt.NDArray[Any], pixel_format: str) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3] RGB, a copy, from [H, W, channels] as the camera sent it.

    Mono, Bayer, RGB and BGR of 8 bits, or of 10 to 16 bits in 16-bit words. BackendError: a packed or other format.
    """
    depth = next((bits for text, bits in BITS.items() if pixel_format.rstrip("p").endswith(text)), 0)
    if not depth or pixel_format.endswith("p") or "Packed" in pixel_format:
        raise BackendError(
            f"pixel format {pixel_format} is not supported", "set source.format = 'Mono8' or 'BayerRG8'"
        )
    pixels = data if depth == 8 else np.right_shift(data, depth - 8)
    pixels = np.ascontiguousarray(pixels).astype(np.uint8)
    if pixel_format[:7] in BAYER:
        return np.asarray(cv2.cvtColor(pixels[:, :, 0], BAYER[pixel_format[:7]]))
    if pixel_format.startswith("Mono"):
        return np.asarray(cv2.cvtColor(pixels[:, :, 0], cv2.COLOR_GRAY2RGB))
    if pixel_format.startswith("RGB") and pixels.shape[2] == 3:
        return pixels
    if pixel_format.startswith("BGR") and pixels.shape[2] == 3:
        return np.ascontiguousarray(pixels[:, :, ::-1])
    raise BackendError(f"pixel format {pixel_format} is not supported", "set source.format = 'Mono8' or 'BayerRG8'")
