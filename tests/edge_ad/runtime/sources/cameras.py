"""Real stream servers on loopback for the tests: motion JPEG over HTTP that can be stopped and started again."""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

WIDTH, HEIGHT = 320, 240


def numbered(number, noise=True):
    """A picture that carries its number as 16 blocks in its first rows, which survive compression; RGB."""
    frame = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    if noise:
        frame += np.random.default_rng(number).integers(0, 25, frame.shape, np.uint8)
    for bit in range(16):
        frame[:16, bit * 20 : bit * 20 + 20] = 255 if number >> bit & 1 else 0
    return frame


def number_of(frame):
    return sum(1 << bit for bit in range(16) if frame[4:12, bit * 20 + 5 : bit * 20 + 15].mean() > 128)


def jpeg(frame):
    return cv2.imencode(".jpg", frame[..., ::-1])[1].tobytes()


class MjpegServer:
    """http://127.0.0.1:port/stream.mjpg and /snapshot.jpg.

    picture: number -> RGB frame. lengths: with Content-Length, or only boundaries. login: (user, password) for Basic
    or, with digest, Digest. tls: an ssl.SSLContext for https. Broken JPEGs are sent for numbers in `broken`.
    """

    def __init__(
        self, port=0, *, fps=60, picture=numbered, lengths=True, login=None, digest=False, broken=(), tls=None
    ):
        self.fps, self.picture, self.lengths, self.login, self.digest = fps, picture, lengths, login, digest
        self.broken, self.number, self.connections, self.silent = set(broken), 0, 0, False
        self.port, self.tls = port, tls
        self.start()

    def start(self):
        server = self
        self._stop = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                if not server.allowed(self.headers.get("Authorization", "")):
                    self.send_response(401)
                    kind = 'Digest realm="cam", nonce="abc", qop="auth"' if server.digest else 'Basic realm="cam"'
                    self.send_header("WWW-Authenticate", kind)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                server.connections += 1
                try:
                    if self.path.startswith("/snapshot"):
                        data = server.next_image()
                        self.send_response(200)
                        self.send_header("Content-Type", "image/jpeg")
                        self.send_header("Content-Length", str(len(data)))
                        self.end_headers()
                        self.wfile.write(data)
                    else:
                        self.stream()
                except OSError:
                    pass

            def stream(self):
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                while not server._stop.is_set():
                    if not server.silent:
                        data = server.next_image()
                        length = b"Content-Length: %d\r\n" % len(data) if server.lengths else b""
                        head = b"--frame\r\nContent-Type: image/jpeg\r\n" + length + b"\r\n"
                        self.wfile.write(head + data + b"\r\n")
                        if not server.lengths:
                            self.wfile.flush()
                    time.sleep(1 / server.fps)

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # a client that refuses our certificate
        self.port = self._server.server_port
        if self.tls:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def next_image(self):
        self.number += 1
        data = jpeg(self.picture(self.number - 1))
        return data[: len(data) // 8] + b"broken" if self.number - 1 in self.broken else data

    def allowed(self, header):
        if not self.login:
            return True
        if not self.digest:
            return header == "Basic " + base64.b64encode(":".join(self.login).encode()).decode()
        fields = dict(p.strip().split("=", 1) for p in header.removeprefix("Digest ").split(",") if "=" in p)
        fields = {key: value.strip('"') for key, value in fields.items()}

        def md5(text):
            return hashlib.md5(text.encode()).hexdigest()

        first = md5(f"{self.login[0]}:cam:{self.login[1]}")
        second = md5(f"GET:{fields.get('uri')}")
        middle = f"abc:{fields.get('nc')}:{fields.get('cnonce')}:auth"
        return fields.get("response") == md5(f"{first}:{middle}:{second}")

    def stop(self):
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self):
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}/stream.mjpg"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
