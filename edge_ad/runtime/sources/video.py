"""Frames through OpenCV: V4L2 cameras, GStreamer and CSI pipelines, RTSP and other streams, video files."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import cv2

from edge_ad.errors import BackendError, ConfigError, DataError
from edge_ad.runtime.settings import SourceSettings
from edge_ad.runtime.sources.address import address_with_credentials, redact
from edge_ad.runtime.sources.base import Picture, Source, SourceLost, Unreadable

log = logging.getLogger(__name__)


class OpenCvSource(Source):
    """What all of them share: read, convert to RGB, stamp."""

    live = True

    def __init__(self, settings: SourceSettings, name: str) -> None:
        self.settings, self.name = settings, name
        self.longest_s = settings.timeout_s
        self._capture: Any = None
        self._number = 0

    def open(self) -> None:
        """Open the device or stream within `timeout_s`."""
        self.close()
        capture = self._connect()
        if not capture.isOpened():
            capture.release()
            raise SourceLost(f"{self.name} can't be opened", self._hint())
        self._capture = capture

    def read(self) -> Picture | None:
        """The next frame, stamped as it arrives."""
        if self._capture is None:
            raise SourceLost(f"{self.name} is not open", "open it first")
        good, frame = self._capture.read()
        captured_ns, time_ns = time.monotonic_ns(), time.time_ns()
        if not good or frame is None or frame.size == 0:
            return self._ended()
        if frame.ndim == 2 or frame.shape[2] == 1:
            frame = cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB)
        else:
            cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=frame)  # in place: no second copy of the picture
        self._number += 1
        return Picture(frame, self._number - 1, time_ns, captured_ns)

    def close(self) -> None:
        """Release the device."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _connect(self) -> Any:
        raise NotImplementedError

    def _ended(self) -> Picture | None:
        raise SourceLost(f"{self.name} sends no frames", self._hint())

    def _hint(self) -> str:
        return "check the cable, the address and that no other program uses it"


class V4l2Source(OpenCvSource):
    """A USB or other V4L2 camera: `0`, `/dev/video0` or `v4l2:///dev/video0`."""

    def __init__(self, settings: SourceSettings) -> None:
        address = settings.address.strip().removeprefix("v4l2://")
        self.device = f"/dev/video{address}" if address.isdigit() else address
        super().__init__(settings, self.device)

    def _connect(self) -> Any:
        if not os.path.exists(self.device):
            raise SourceLost(f"there is no camera {self.device}", "see `edgead doctor`; is it plugged in?")
        if not os.access(self.device, os.R_OK | os.W_OK):
            raise SourceLost(f"no right to use {self.device}", "add the user to the group 'video' and log in again")
        timeout_ms = int(self.settings.timeout_s * 1000)
        capture = cv2.VideoCapture()
        capture.open(self.device, cv2.CAP_V4L2, [cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout_ms])
        wanted = self.settings
        if wanted.format:
            if len(wanted.format) != 4:
                raise ConfigError(f"source.format = {wanted.format!r}", "V4L2 formats have four letters, like MJPG")
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*wanted.format))
        for prop, value in (
            (cv2.CAP_PROP_FRAME_WIDTH, wanted.width),
            (cv2.CAP_PROP_FRAME_HEIGHT, wanted.height),
            (cv2.CAP_PROP_FPS, wanted.fps),
        ):
            if value:
                capture.set(prop, value)
        if wanted.exposure is not None:
            capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, 1)  # V4L2's number for manual
            capture.set(cv2.CAP_PROP_EXPOSURE, wanted.exposure)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        return capture


class StreamSource(OpenCvSource):
    """RTSP (over TCP, unless OPENCV_FFMPEG_CAPTURE_OPTIONS says otherwise) and whatever else FFmpeg reads.

    FFmpeg collects frames while it opens a stream, by default for three seconds to guess the frame rate: those are
    pictures of the past, and are skipped.
    """

    BACKLOG_S = 5.0

    def __init__(self, settings: SourceSettings) -> None:
        super().__init__(settings, redact(settings.address))

    def _connect(self) -> Any:
        os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp|fpsprobesize;0")
        _hush_ffmpeg()
        timeout_ms = int(self.settings.timeout_s * 1000)
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, timeout_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout_ms]
        capture = cv2.VideoCapture()
        capture.open(address_with_credentials(self.settings), cv2.CAP_FFMPEG, limits)
        if capture.isOpened():
            self._skip_backlog(capture)
            self._skip_to_key_frame(capture)
        return capture

    def _skip_backlog(self, capture: Any) -> None:
        """Frames that are there at once were waiting; the first one that has to be waited for is of this moment."""
        rate = min(max(capture.get(cv2.CAP_PROP_FPS) or 25.0, 5.0), 60.0)
        for _ in range(int(self.BACKLOG_S * rate)):
            begun = time.monotonic()
            if not capture.grab() or time.monotonic() - begun > 0.25 / rate:
                return

    def _skip_to_key_frame(self, capture: Any) -> None:
        """A stream is joined in the middle of a group of pictures: until the next key frame, gray smears come.

        Most decoders keep them back; where one shows them, they are skipped for `timeout_s` at most.
        """
        kind = getattr(cv2, "CAP_PROP_FRAME_TYPE", None)
        end = time.monotonic() + self.settings.timeout_s
        while kind is not None and capture.get(kind) in (ord("P"), ord("B")):
            if time.monotonic() > end:
                log.warning("%s sends no key frame: its first pictures may be smeared", self.name)
                return
            if not capture.grab():
                return

    def _hint(self) -> str:
        return "check the network, the address, user and password"


class GStreamerSource(OpenCvSource):
    """Any GStreamer pipeline, and `csi://N` for the cameras on a Jetson's CSI port.

    Needs an OpenCV built with GStreamer, as JetPack's is; the one from PyPI is built without.
    """

    def __init__(self, settings: SourceSettings) -> None:
        address = settings.address.strip()
        super().__init__(settings, address if address.startswith("csi://") else redact(address)[:60])
        self.pipeline = csi_pipeline(settings) if address.startswith("csi://") else with_appsink(address)

    def _connect(self) -> Any:
        if not has_gstreamer():
            raise BackendError(
                f"{self.name} needs GStreamer, and this OpenCV {cv2.__version__} is built without it",
                "use the system's OpenCV (JetPack: python3-opencv), or build opencv-python with -D WITH_GSTREAMER=ON",
            )
        limit = [getattr(cv2, "CAP_PROP_READ_TIMEOUT_MSEC", 54), int(self.settings.timeout_s * 1000)]
        capture = cv2.VideoCapture(self.pipeline, cv2.CAP_GSTREAMER, limit)
        if capture.isOpened():
            return capture
        return cv2.VideoCapture(self.pipeline, cv2.CAP_GSTREAMER)  # an older OpenCV knows no limit there


class VideoFileSource(OpenCvSource):
    """A video file: every frame, or with `realtime` at its own speed as a camera would deliver them."""

    def __init__(self, settings: SourceSettings, path: Path) -> None:
        super().__init__(settings, path.name)
        self.path = path
        self.live = settings.realtime
        self._due: float | None = None

    def _connect(self) -> Any:
        _hush_ffmpeg()
        capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            capture.release()
            raise DataError(f"{self.path} is no video that can be read", "convert it, for example to H.264 in .mp4")
        self._period = 1.0 / (capture.get(cv2.CAP_PROP_FPS) or 25.0)
        self._due = None
        self._before, self._promised = self._number, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        return capture

    def read(self) -> Picture | None:
        """The next frame; with `realtime` it waits for its moment."""
        if self.settings.realtime:
            now = time.monotonic()
            self._due = max(self._due + self._period, now - 1.0) if self._due is not None else now
            time.sleep(max(self._due - now, 0.0))
        return super().read()

    def _ended(self) -> Picture | None:
        frames = self._number - self._before
        if not frames:
            raise Unreadable(
                f"{self.path} opens, but not one frame of it can be decoded",
                "its coding may be unknown to this OpenCV (AV1, HEVC): convert it, for example to H.264 in .mp4",
            )
        if frames < 0.98 * self._promised:  # some formats only estimate the number
            log.warning("%s ended after %d of %d frames: is the file whole?", self.path, frames, self._promised)
        if not self.settings.repeat:
            return None
        try:
            self.open()
        except DataError as error:  # the file was replaced meanwhile
            raise Unreadable(error.message, error.hint) from error
        return super().read()


def _hush_ffmpeg() -> None:
    """Its own messages repeat the address with its password, and stand beside our errors."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def csi_pipeline(settings: SourceSettings) -> str:
    """The Jetson pipeline for `csi://N`: sensor N through the image processor, the newest frame only."""
    sensor = settings.address.strip().removeprefix("csi://") or "0"
    if not sensor.isdigit():
        raise ConfigError(f"source address {settings.address!r}", "use csi://0, csi://1 ...")
    width, height = settings.width or 1920, settings.height or 1080
    rate = settings.fps or 30.0
    exposure = ""
    if settings.exposure is not None:
        nanoseconds = int(settings.exposure * 1000)
        exposure = f' exposuretimerange="{nanoseconds} {nanoseconds}" aelock=true'
    return (
        f"nvarguscamerasrc sensor-id={sensor}{exposure} ! "
        f"video/x-raw(memory:NVMM),width={width},height={height},framerate={rate:.0f}/1,format=NV12 ! "
        "nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! "
        "appsink drop=true max-buffers=1 sync=false"
    )


def with_appsink(pipeline: str) -> str:
    """The pipeline, ended for OpenCV when it doesn't end in an appsink itself."""
    if "appsink" in pipeline:
        return pipeline
    return f"{pipeline} ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"


def has_gstreamer() -> bool:
    """Whether this OpenCV was built with GStreamer."""
    return any(
        line.split(":")[-1].strip().startswith("YES")
        for line in cv2.getBuildInformation().splitlines()
        if line.strip().startswith("GStreamer")
    )
