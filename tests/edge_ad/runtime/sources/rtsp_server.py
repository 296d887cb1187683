"""A camera's RTSP server on loopback for the tests: H.264 from picture files, in a process that can be killed.

GStreamer's server, from Debian's python3-gi, gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-{base,good,bad,ugly};
their bindings belong to the system's Python, so the server is a program of its own: this very file.
"""

import shutil
import socket
import subprocess
import sys
import time
from functools import cache

PIPELINE = (
    "( multifilesrc location={folder}/%05d.jpg index=0 loop=true caps=image/jpeg,framerate={fps}/1 ! jpegdec "
    "! videoconvert ! video/x-raw,format=I420 ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max={fps} "
    "! rtph264pay name=pay0 pt=96 config-interval=1 )"
)
NEEDED = "jpegdec", "x264enc", "rtph264pay"


@cache
def python_with_gstreamer():
    """The Python that has GStreamer's RTSP server and the needed elements; None without one."""
    probe = (
        "import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstRtspServer', '1.0')\n"
        "from gi.repository import Gst, GstRtspServer; Gst.init(None)\n"
        f"raise SystemExit(not all(map(Gst.ElementFactory.find, {NEEDED})))"
    )
    for program in (shutil.which("python3", path="/usr/bin"), sys.executable):
        if program and subprocess.run([program, "-c", probe], capture_output=True, check=False).returncode == 0:
            return program
    return None


class RtspServer:
    """rtsp://127.0.0.1:port/cam. folder: pictures 00000.jpg, 00001.jpg ..., shown again and again.

    login: (user, password) that the server asks for.
    """

    def __init__(self, folder, *, fps=10, login=None):
        self.folder, self.fps, self.login = folder, fps, login
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.start()

    @property
    def url(self):
        return f"rtsp://127.0.0.1:{self.port}/cam"

    def start(self):
        words = [
            python_with_gstreamer(),
            __file__,
            str(self.port),
            str(self.folder),
            str(self.fps),
            *(self.login or ()),
        ]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return
            except OSError:
                assert time.monotonic() < until, "the RTSP server did not start"
                time.sleep(0.05)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


def serve(port, folder, fps, user="", password=""):
    """Serve until killed."""
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    Gst.init(None)
    server = GstRtspServer.RTSPServer(service=port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(PIPELINE.format(folder=folder, fps=fps))
    factory.set_shared(True)
    if user:
        auth, token = GstRtspServer.RTSPAuth(), GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", user)
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
        server.set_auth(auth)
        factory.add_role_from_structure(Gst.Structure.from_string(
            f"{user}, media.factory.access=(boolean)true, media.factory.construct=(boolean)true"
        )[0])  # fmt: skip
    server.get_mount_points().add_factory("/cam", factory)
    server.attach(None)
    GLib.MainLoop().run()


if __name__ == "__main__":
    if sys.argv[1:] == ["--probe"]:
        raise SystemExit(python_with_gstreamer() is None)
    serve(*sys.argv[1:])
