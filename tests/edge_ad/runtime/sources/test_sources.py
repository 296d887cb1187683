import contextlib
import datetime
import importlib.util
import io
import os
import socket
import ssl
import threading
import time
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest

from edge_ad.errors import BackendError, ConfigError, DataError
from edge_ad.runtime.settings import SourceSettings
from edge_ad.runtime.sources.address import redact
from edge_ad.runtime.sources.base import SourceLost, Unreadable
from edge_ad.runtime.sources.files import FolderSource, StdinSource, WatchedFolder
from edge_ad.runtime.sources.genicam import GenicamSource, find_producers, to_rgb
from edge_ad.runtime.sources.opening import open_source
from edge_ad.runtime.sources.video import GStreamerSource, V4l2Source, csi_pipeline, has_gstreamer, with_appsink


def load(name):
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cameras = load("cameras")


def source(address, **settings):
    return open_source(SourceSettings(address=str(address), **settings))


def read_all(source):
    source.open()
    pictures = []
    while (picture := source.read()) is not None:
        pictures.append(picture)
    source.close()
    return pictures


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "line.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 50, (cameras.WIDTH, cameras.HEIGHT))
    for number in range(20):
        writer.write(cameras.numbered(number)[..., ::-1])
    writer.release()
    return path


def test_video_gives_every_frame_in_order_and_in_rgb(video):
    pictures = read_all(source(video))
    assert [cameras.number_of(p.frame) for p in pictures] == [p.number for p in pictures] == list(range(20))
    assert all(p.frame.shape == (240, 320, 3) and p.frame.dtype == np.uint8 for p in pictures)
    stamps = [p.captured_ns for p in pictures]
    assert stamps == sorted(stamps)


def test_a_video_that_was_cut_short_says_so(video, caplog):
    read_all(source(video))
    assert not caplog.records
    data = video.read_bytes()
    video.write_bytes(data[: len(data) // 2])
    assert 5 < len(read_all(source(video))) < 15
    assert "of 20 frames: is the file whole?" in caplog.text


def test_video_plays_at_its_own_speed_and_again(video):
    live = source(video, realtime=True)
    assert live.live
    started = time.monotonic()
    read_all(live)
    assert time.monotonic() - started > 0.3
    endless = source(video, repeat=True)
    endless.open()
    numbers = [cameras.number_of(endless.read().frame) for _ in range(45)]
    assert numbers == [n % 20 for n in range(45)]


def test_colours_are_rgb(tmp_path):
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 250
    cv2.imwrite(str(tmp_path / "red.png"), red[..., ::-1])
    (picture,) = read_all(source(tmp_path / "red.png"))
    assert picture.frame[32, 32].tolist() == [250, 0, 0]
    stdin = StdinSource(SourceSettings("-"), io.BytesIO(cv2.imencode(".png", red[..., ::-1])[1].tobytes()))
    assert read_all(stdin)[0].frame[32, 32].tolist() == [250, 0, 0]


def test_folder_goes_on_after_broken_images(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(cameras.jpeg(cameras.numbered(number)))
    (tmp_path / "1.jpg").write_bytes(b"\xff\xd8\xff\xe0 half a header")
    (tmp_path / "2.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._0.jpg").write_bytes(b"what macOS writes beside each file")
    os.mkfifo(tmp_path / "0a.jpg")
    (tmp_path / "1a.jpg").symlink_to("nowhere")
    folder = source(tmp_path)
    folder.open()
    assert folder.read().label == "0.jpg"
    for name in ("1.jpg", "1a.jpg", "2.jpg"):
        with pytest.raises(DataError, match=name):
            folder.read()
    assert cameras.number_of(folder.read().frame) == 3
    assert folder.read() is None


def test_watched_folder_reads_only_complete_files(tmp_path):
    watched = source(f"watch://{tmp_path}", settle_s=0.5, timeout_s=0.05)
    assert isinstance(watched, WatchedFolder)
    watched.open()
    data = cameras.jpeg(cameras.numbered(5))
    path = tmp_path / "part.jpg"

    with path.open("wb") as file:
        for piece in (data[:1000], data[1000:2000], data[2000:3000]):
            file.write(piece)
            file.flush()
            with pytest.raises(TimeoutError):
                watched.read()
        file.write(data[3000:])
    seen = next_of(watched)
    assert cameras.number_of(seen.frame) == 5
    assert seen.label == "part.jpg"
    with pytest.raises(TimeoutError):
        watched.read()
    path.write_bytes(cameras.jpeg(cameras.numbered(6)))  # the same name again is a new part
    assert cameras.number_of(next_of(watched).frame) == 6


def next_of(watched):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            return watched.read()
        except TimeoutError:
            continue
    raise AssertionError("nothing came")


@pytest.mark.parametrize(("after", "left"), [("keep", ["a.png"]), ("delete", []), ("move", ["done"])])
def test_watched_folder_clears_up(tmp_path, after, left):
    cv2.imwrite(str(tmp_path / "a.png"), cameras.numbered(1))
    watched = source(f"watch://{tmp_path}", settle_s=0.05, timeout_s=0.1, after=after)
    watched.open()
    assert next_of(watched) is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == left


def test_watched_folder_overwrites_nothing_when_names_come_again(tmp_path):
    watched = source(f"watch://{tmp_path}", settle_s=0.05, after="move")
    watched.open()
    for number in (1, 2, 3):
        cv2.imwrite(str(tmp_path / "a.png"), cameras.numbered(number))
        assert cameras.number_of(next_of(watched).frame) == number
    assert sorted(path.name for path in (tmp_path / "done").iterdir()) == ["a-2.png", "a-3.png", "a.png"]


def test_a_file_that_cannot_be_cleared_away_is_read_once(tmp_path, monkeypatch, caplog):
    cv2.imwrite(str(tmp_path / "a.png"), cameras.numbered(1))
    watched = source(f"watch://{tmp_path}", settle_s=0.05, after="delete")
    watched.open()
    monkeypatch.setattr(Path, "unlink", Mock(side_effect=PermissionError(13, "Permission denied")))
    assert next_of(watched) is not None
    assert "can't delete" in caplog.text
    with pytest.raises(TimeoutError):
        watched.read()


def test_watched_folder_reports_a_file_that_stays_broken(tmp_path, monkeypatch):
    from edge_ad.runtime.sources import files as sources_files

    monkeypatch.setattr(sources_files, "BROKEN_S", 0.2)
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0 never finished")
    watched = source(f"watch://{tmp_path}", settle_s=0.05, timeout_s=0.1)
    watched.open()
    with pytest.raises(DataError, match=r"a\.jpg"):
        next_of(watched)
    with pytest.raises(TimeoutError):
        watched.read()


def test_stdin_without_an_image_is_no_empty_run():
    stdin = StdinSource(SourceSettings("-"), io.BytesIO(b"what a camera's tool says when it fails"))
    stdin.open()
    with pytest.raises(Unreadable, match="no JPEG or PNG image in 39 bytes"):
        stdin.read()
    with pytest.raises(Unreadable, match="in 0 bytes"):
        read_all(StdinSource(SourceSettings("-"), io.BytesIO(b"")))


def test_stdin_takes_jpeg_and_png_in_pieces_and_reports_a_cut_off_one(tmp_path):
    encoded = [cv2.imencode(".png" if n % 2 else ".jpg", cameras.numbered(n))[1].tobytes() for n in range(6)]
    stream = io.BytesIO(b"junk" + b"\r\n".join(encoded) + encoded[0][:2000])
    stdin = StdinSource(SourceSettings("-"), stream)
    stdin.CHUNK = 777
    stdin.open()
    assert [cameras.number_of(stdin.read().frame) for _ in range(6)] == list(range(6))
    with pytest.raises(DataError, match="cut short"):
        stdin.read()
    assert stdin.read() is None


@pytest.mark.parametrize("lengths", [True, False])
def test_mjpeg_stream(lengths):
    with cameras.MjpegServer(lengths=lengths) as server:
        stream = source(server.url)
        stream.open()
        numbers = [cameras.number_of(stream.read().frame) for _ in range(12)]
        stream.close()
    assert numbers == list(range(numbers[0], numbers[0] + 12))


def test_mjpeg_goes_on_after_a_broken_image():
    with cameras.MjpegServer(broken={2}) as server:
        stream = source(server.url)
        stream.open()
        assert [cameras.number_of(stream.read().frame) for _ in range(2)] == [0, 1]
        with pytest.raises(DataError, match="broken image"):
            stream.read()
        assert cameras.number_of(stream.read().frame) == 3
        stream.close()


@pytest.mark.parametrize("kind", ["half", "huge"])
def test_half_and_huge_jpegs_on_a_stream_are_no_pictures(kind, monkeypatch):
    """OpenCV would fill the missing half with gray, and take gigabytes for a header that says 65500 x 65500."""
    whole = cameras.jpeg(cameras.numbered(5))
    size = whole.index(b"\xff\xc0") + 5
    bad = whole[: len(whole) // 2] if kind == "half" else whole[:size] + b"\xff\xdc\xff\xdc" + whole[size + 4 :]
    monkeypatch.setattr(cameras, "jpeg", lambda frame: bad)
    with cameras.MjpegServer() as server:
        stream = source(server.url)
        stream.open()
        with pytest.raises(DataError, match="cut short" if kind == "half" else "65500x65500"):
            stream.read()
        monkeypatch.undo()
        while True:  # those on their way
            try:
                assert cameras.number_of(stream.read().frame) > 0
                break
            except DataError:
                continue
        stream.close()


def test_snapshots_are_polled():
    with cameras.MjpegServer() as server:
        stream = source(server.url.replace("stream.mjpg", "snapshot.jpg"), fps=50)
        stream.open()
        numbers = [cameras.number_of(stream.read().frame) for _ in range(5)]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("digest", [False, True])
def test_logins_work_and_are_never_shown(digest, tmp_path, caplog):
    secret = "p@ss/w:rd"
    (tmp_path / "password").write_text(secret + "\n")
    with cameras.MjpegServer(login=("line", secret), digest=digest) as server:
        stream = source(server.url, username="line", password_file=str(tmp_path / "password"))
        stream.open()
        assert stream.read() is not None
        stream.close()
        wrong = source(server.url.replace("//", "//line:guess%40@"), timeout_s=60)
        with pytest.raises(SourceLost, match="401") as caught:
            wrong.open()
        assert "guess" not in f"{caught.value} {caught.value.hint} {wrong.name} {caplog.text}"
        assert caught.value.__cause__ is None


def test_a_silent_or_absent_server_is_lost_in_time():
    with cameras.MjpegServer() as server:
        stream = source(server.url, timeout_s=2)
        stream.open()
        assert stream.read() is not None
        server.silent = True
        started = time.monotonic()
        with pytest.raises(SourceLost):  # noqa: PT012  (frames on their way come first)
            for _ in range(1000):
                stream.read()
        assert time.monotonic() - started < 60
        stream.close()
        url = server.url
    with pytest.raises(SourceLost, match="can't be reached"):
        source(url, timeout_s=2).open()


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://user:secret@10.0.0.5:554/live?token=secret", "rtsp://10.0.0.5:554/live"),
        (
            "rtspsrc location=rtsp://u:secret@h/x latency=0 ! appsink",
            "rtspsrc location=rtsp://h/x latency=0 ! appsink",
        ),
        ("rtspsrc user-id=me user-pw=secret ! appsink", "rtspsrc user-id=*** user-pw=*** ! appsink"),
        ("/dev/video0", "/dev/video0"),
    ],
)
def test_redacted_addresses(address, shown):
    assert redact(address) == shown


def test_cameras_that_are_not_there_say_so(tmp_path):
    assert isinstance(source("0"), V4l2Source)
    assert source("v4l2:///dev/video7").device == source("7").device == "/dev/video7"
    with pytest.raises(SourceLost, match="/dev/video97"):
        source("97").open()
    with pytest.raises(DataError, match="does not exist"):
        source(tmp_path / "nothing.mp4")
    with pytest.raises(DataError, match="no images"):
        source(tmp_path).open()
    with pytest.raises(ConfigError, match="no camera or source"):
        source("")
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(DataError, match="no video"):
        source(tmp_path / "text.mp4").open()


def test_dead_rtsp_address_is_lost_within_the_timeout():
    stream = source("rtsp://user:secret@127.0.0.1:9/live", timeout_s=1.0)
    started = time.monotonic()
    with pytest.raises(SourceLost) as caught:
        stream.open()
    assert time.monotonic() - started < 60
    assert "secret" not in str(caught.value)


def test_gstreamer_pipelines():
    pipeline = csi_pipeline(SourceSettings("csi://1", width=1280, height=720, fps=60, exposure=500))
    assert "sensor-id=1 " in pipeline
    assert "width=1280,height=720,framerate=60/1" in pipeline
    assert 'exposuretimerange="500000 500000"' in pipeline
    assert pipeline.endswith("appsink drop=true max-buffers=1 sync=false")
    with pytest.raises(ConfigError, match="csi://front"):
        csi_pipeline(SourceSettings("csi://front"))
    assert "appsink" in with_appsink("videotestsrc")
    assert with_appsink("videotestsrc ! appsink") == "videotestsrc ! appsink"
    test_source = source("videotestsrc num-buffers=3 ! videoconvert")
    assert isinstance(test_source, GStreamerSource)
    if not has_gstreamer():
        with pytest.raises(BackendError, match="built without it"):
            test_source.open()


def test_genicam_without_its_package_or_driver(monkeypatch, tmp_path):
    camera = source("genicam://123")
    assert isinstance(camera, GenicamSource)
    monkeypatch.setenv("GENICAM_GENTL64_PATH", str(tmp_path))
    (tmp_path / "maker.cti").touch()
    assert find_producers() == [tmp_path / "maker.cti"]
    monkeypatch.delenv("GENICAM_GENTL64_PATH")
    with pytest.raises(BackendError, match=r"harvesters|GenTL"):
        camera.open()


def test_genicam_pixels():
    rng = np.random.default_rng(0)
    gray = rng.integers(0, 4096, (6, 8, 1), np.uint16)
    assert np.array_equal(to_rgb(gray, "Mono12")[..., 1], (gray[..., 0] >> 4).astype(np.uint8))
    rgb = rng.integers(0, 255, (6, 8, 3), np.uint8)
    assert np.array_equal(to_rgb(rgb, "BGR8"), rgb[..., ::-1])
    for name, first in {"BayerRG8": 0, "BayerBG8": 2}.items():
        mosaic = np.zeros((16, 16, 1), np.uint8)
        mosaic[::2, ::2] = 200  # the pattern's first pixel
        assert to_rgb(mosaic, name)[4:12, 4:12].mean((0, 1)).argmax() == first
    for name, row in {"BayerGR8": 0, "BayerGB8": 1}.items():  # red sits at (row, 1 - row)
        mosaic = np.zeros((16, 16, 1), np.uint8)
        mosaic[row::2, 1 - row :: 2] = 200
        assert to_rgb(mosaic, name)[4:12, 4:12].mean((0, 1)).argmax() == 0
    with pytest.raises(BackendError, match="Mono12p"):
        to_rgb(gray, "Mono12p")


def test_one_image_is_a_source_too(tmp_path):
    cv2.imwrite(str(tmp_path / "one.png"), cameras.numbered(3))
    assert isinstance(source(tmp_path / "one.png"), FolderSource)
    assert len(read_all(source(tmp_path / "one.png"))) == 1


def test_a_video_that_opens_but_cannot_be_decoded_ends_at_once(video):
    data = video.read_bytes()
    for _ in range(20):
        start = data.index(b"\xff\xd8\xff")
        data = data[:start] + bytes(2000) + data[start + 2000 :]
    video.write_bytes(data)
    broken = source(video)
    broken.open()
    for _ in range(2):
        with pytest.raises(Unreadable, match="not one frame"):
            broken.read()


def test_a_repeated_source_that_was_emptied_ends(tmp_path, video):
    cv2.imwrite(str(tmp_path / "a.png"), cameras.numbered(1))
    folder = source(tmp_path / "a.png", repeat=True)
    endless = source(video, repeat=True)
    for one, path in ((folder, tmp_path / "a.png"), (endless, video)):
        one.open()
        one.read()
        path.unlink()
    folder.path = tmp_path
    with pytest.raises(Unreadable, match="no images"):
        folder.read()
    with pytest.raises(Unreadable):  # noqa: PT012  (frames on their way come first)
        for _ in range(50):
            endless.read()


def test_a_watched_folder_that_goes_away_is_lost(tmp_path):
    folder = tmp_path / "drop"
    folder.mkdir()
    watched = source(f"watch://{folder}")
    watched.open()
    folder.rmdir()
    with pytest.raises(SourceLost, match="is gone"):
        watched.open()


def test_a_file_that_grows_for_long_is_said(tmp_path, caplog):
    watched = source(f"watch://{tmp_path}", settle_s=5, timeout_s=0.1)
    watched.open()
    for size in range(1, 4):
        (tmp_path / "a.png").write_bytes(bytes(size))
        with pytest.raises(TimeoutError):
            watched.read()
    assert caplog.text.count("a.png is still being written") == 1


def test_closed_and_raw_standard_input_end_with_a_reason(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(Unreadable, match="is closed"):
        StdinSource(SourceSettings("-")).open()
    raw = StdinSource(SourceSettings("-"), io.BytesIO(bytes(70 << 20)))
    raw.open()
    for _ in range(2):
        with pytest.raises(Unreadable, match="no JPEG or PNG image in 64 MiB"):
            raw.read()


def test_a_pipe_that_waits_is_no_fault(tmp_path):
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as stream, open(write_end, "wb") as pipe:
        stdin = StdinSource(SourceSettings("-"), stream)
        stdin.open()
        with pytest.raises(TimeoutError):
            stdin.read()
        pipe.write(cameras.jpeg(cameras.numbered(3)))
        pipe.flush()
        assert cameras.number_of(stdin.read().frame) == 3


@pytest.fixture
def serve():
    """serve(lines, pause_s=0.2): an address that answers with these bytes, one after the other, and then waits."""
    done = threading.Event()
    servers = []

    def start(chunks, pause_s=0.2):
        listener = socket.create_server(("127.0.0.1", 0))
        servers.append(listener)

        def run():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    connection.recv(4096)
                    for chunk in chunks:
                        connection.sendall(chunk)
                        if done.wait(pause_s):
                            return
                    done.wait(30)

        threading.Thread(target=run, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/"

    yield start
    done.set()
    for server in servers:
        server.close()


STREAM = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"


@pytest.mark.parametrize("drip", ["bytes of a picture", "blank lines"])
def test_a_timeout_is_of_a_frame_not_of_a_byte(serve, drip):
    picture = cameras.jpeg(cameras.numbered(1))
    rest = [picture[n : n + 1] for n in range(500)] if drip == "bytes of a picture" else [b"\r\n"] * 500
    stream = source(serve([STREAM + b"--frame\r\n\r\n" + picture + b"\r\n--frame\r\n\r\n", *rest]), timeout_s=2)
    stream.open()
    assert cameras.number_of(stream.read().frame) == 1
    started = time.monotonic()
    with pytest.raises(SourceLost, match="no whole frame within 2 s"):
        stream.read()
    assert time.monotonic() - started < 60  # the bytes go on for 100 s
    stream.close()


def test_a_waiting_read_can_be_interrupted(serve):
    stream = source(serve([STREAM]), timeout_s=30)
    stream.open()
    threading.Timer(0.2, stream.interrupt).start()
    started = time.monotonic()
    with pytest.raises(SourceLost):
        stream.read()
    assert time.monotonic() - started < 25
    stream.close()
    headers = source(serve([STREAM[:20], *[b"x"] * 500], pause_s=0.1), timeout_s=30)
    threading.Timer(0.3, headers.interrupt).start()
    with pytest.raises(SourceLost):
        headers.open()
    assert time.monotonic() - started < 25


@pytest.fixture
def own_certificate(tmp_path):
    """(certificate, key) that a camera made for itself, in PEM files; its name is not its address."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.timezone.utc)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "camera")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(now - datetime.timedelta(days=1))
    certificate = builder.not_valid_after(now + datetime.timedelta(days=1)).sign(key, hashes.SHA256())
    encoding = serialization.Encoding.PEM
    (tmp_path / "camera.pem").write_bytes(certificate.public_bytes(encoding))
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "camera.key").write_bytes(private)
    return tmp_path / "camera.pem", tmp_path / "camera.key"


def test_a_camera_with_its_own_certificate_needs_it_named(tmp_path, own_certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*own_certificate)
    with cameras.MjpegServer(tls=context) as server:
        with pytest.raises(SourceLost, match="certificate") as caught:
            source(server.url, timeout_s=60).open()
        assert "source.ca_file" in caught.value.hint
        stream = source(server.url, timeout_s=60, ca_file=str(own_certificate[0]))
        stream.open()
        assert stream.read() is not None
        stream.close()
    with pytest.raises(ConfigError, match="ca_file"):
        source("https://camera/stream", ca_file=str(tmp_path / "none.pem"))


class GroupOfPictures:
    """A capture that was opened in the middle of a group: it shows these kinds of frames, one a grab."""

    def __init__(self, kinds):
        self.kinds, self.at = kinds, 0

    def get(self, prop):
        return float(ord(self.kinds[min(self.at, len(self.kinds) - 1)])) if prop == cv2.CAP_PROP_FRAME_TYPE else 25.0

    def grab(self):
        self.at += 1
        return True


@pytest.mark.skipif(not hasattr(cv2, "CAP_PROP_FRAME_TYPE"), reason="this OpenCV does not tell kinds of frames")
@pytest.mark.parametrize(("kinds", "skipped"), [("PPBPIPP", 4), ("IPP", 0), ("?", 0)])
def test_a_stream_joined_in_the_middle_of_a_group_begins_with_its_next_key_frame(kinds, skipped):
    capture = GroupOfPictures(kinds)
    source("rtsp://camera/live")._skip_to_key_frame(capture)
    assert capture.at == skipped


@pytest.mark.skipif(not hasattr(cv2, "CAP_PROP_FRAME_TYPE"), reason="this OpenCV does not tell kinds of frames")
def test_a_stream_without_key_frames_is_not_waited_for(caplog):
    source("rtsp://camera/live", timeout_s=0.1)._skip_to_key_frame(GroupOfPictures("P"))
    assert "sends no key frame" in caplog.text


def test_a_folder_says_what_it_leaves_out(tmp_path, caplog):
    assert cv2.imwrite(str(tmp_path / "a.png"), np.full((8, 8, 3), 9, np.uint8))
    (tmp_path / "IMG_1.HEIC").write_bytes(b"x")
    (tmp_path / "@eaDir").mkdir()
    assert cv2.imwrite(str(tmp_path / "@eaDir/thumb.png"), np.zeros((8, 8, 3), np.uint8))
    source = open_source(SourceSettings(str(tmp_path)))
    source.open()
    assert [picture.frame.max() for picture in iter(source.read, None)] == [9]
    assert "*.heic: 1 file(s): HEIC is not read" in caplog.text
    assert "@eaDir: 1 picture(s)" in caplog.text
