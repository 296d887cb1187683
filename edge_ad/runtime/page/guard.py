"""Who may see and change what on the operator page. Plain ASGI, in front of every route.

On loopback without a token: only requests that name a loopback host (a foreign page that has rebound its DNS name
does not). Elsewhere: a token, as `Authorization: Bearer` or as the cookie that signing in sets. Every write must
come from this page itself: a header that other origins cannot send unasked, and agreeing Origin and Sec-Fetch-Site.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

COOKIE = "edgead_session"
SESSION_S = 12 * 3600  # a shift and a half
OPEN = {"/healthz", "/readyz", "/api/login", "/static/style.css", "/static/login.js", "/static/icon.svg"}
BODY_LIMIT = 64 * 1024
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Sessions:
    """Checks tokens in constant time, signs cookies, slows guessing down."""

    def __init__(self, token: str, *, clock: Callable[[], float] = time.time, tries_per_minute: int = 10) -> None:
        self._token, self._clock, self._tries = token.encode(), clock, tries_per_minute
        self._failures: deque[float] = deque()

    def is_token(self, given: str) -> bool:
        """True for the token."""
        return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), self._token)

    def issue(self) -> str:
        """A cookie's value: when it ends, and a signature under the token."""
        return self._sign(int(self._clock()) + SESSION_S)

    def is_session(self, value: str) -> bool:
        """True for a cookie of ours that has not ended."""
        end = value.partition(".")[0]
        if not (end.isascii() and end.isdigit() and len(end) < 16):
            return False
        same = hmac.compare_digest(value.encode("utf-8", "surrogateescape"), self._sign(int(end)).encode())
        return same and int(end) > self._clock()

    def _sign(self, end: int) -> str:
        return f"{end}.{hmac.new(self._token, f'edgead page {end}'.encode(), hashlib.sha256).hexdigest()}"

    def is_throttled(self) -> bool:
        """True while too many wrong tokens came in the last minute."""
        while self._failures and self._failures[0] < self._clock() - 60:
            self._failures.popleft()
        return len(self._failures) >= self._tries

    def count_failure(self) -> None:
        """Counts a wrong token."""
        self._failures.append(self._clock())


class Guard:
    """The ASGI application behind these checks."""

    def __init__(
        self,
        app: Any,
        *,
        sessions: Sessions | None,
        hosts: frozenset[str],
        login_page: bytes,
        proxies: frozenset[str] = frozenset(),
    ) -> None:
        """sessions: None where no token is asked for. hosts: names the page may be called by then.

        proxies: names that a proxy calls the page by; writes may name them as their origin.
        """
        self.app, self.sessions, self.hosts, self.login_page = app, sessions, hosts, login_page
        self.proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        is_head = scope["method"] == "HEAD"  # probes ask so: as GET, without the body
        if is_head:
            scope = {**scope, "method": "GET"}

        async def send_guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_pairs(HEADERS)]}
            elif is_head:
                message = {**message, "body": b""}
            await send(message)

        headers = _headers(scope)
        refusal = self._refusal(scope, headers)
        if refusal:
            await _answer(send_guarded, *refusal)
            return
        await self.app(scope, _limited(receive), send_guarded)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, bytes, str] | None:
        if self.sessions is None and _name(headers.get("host", "")) not in self.hosts:
            return _refuse(421, "this page is only for the machine it runs on")
        path, method = scope["path"], scope["method"]
        if self.sessions is not None and path not in OPEN and not self._known(headers):
            if path == "/" and method == "GET":
                return 401, self.login_page, "text/html; charset=utf-8"
            return _refuse(401, "a token is needed")
        if method not in ("GET", "HEAD", "OPTIONS"):
            length = headers.get("content-length", "0")
            if not length.isdigit() or int(length) > BODY_LIMIT:
                return _refuse(413, "the request is too large")
            return self._foreign(scope, headers)
        return None

    def _known(self, headers: dict[str, str]) -> bool:
        assert self.sessions is not None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.sessions.is_token(given.strip())
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and self.sessions.is_session(cookie.value)

    def _foreign(self, scope: Scope, headers: dict[str, str]) -> tuple[int, bytes, str] | None:
        if headers.get("x-edgead") != "1":
            return _refuse(403, "a write needs the header X-EdgeAD: 1")
        site = headers.get("sec-fetch-site", "")
        if site not in ("", "same-origin", "none"):
            return _refuse(403, "a write must come from this page")
        # Behind a TLS proxy the scheme differs; the host is what tells origins of other machines apart. Behind one
        # that doesn't pass the Host on, the browser's own word counts, which it gives on https and loopback.
        origin = headers.get("origin")
        host = (origin or "").partition("://")[2]
        if origin is None or host == headers.get("host", "") or site == "same-origin" or _name(host) in self.proxies:
            return None
        hint = "behind a proxy, let it pass the Host header (nginx: proxy_set_header Host $http_host;)"
        return _refuse(403, f"a write must come from this page, not from {origin[:80]}; {hint}")


def is_loopback(host: str) -> bool:
    """True for names and addresses that only this machine can reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """The Host header without its port."""
    return host.partition("]")[0].strip("[") if host.startswith("[") else host.partition(":")[0].lower()


def _headers(scope: Scope) -> dict[str, str]:
    # A header sent twice keeps both values, so that no second one slips past the check.
    found: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _limited(receive: Receive) -> Receive:
    """The body, cut off past the limit: a chunked one carries no length to check beforehand."""
    seen = 0

    async def limited() -> MutableMapping[str, Any]:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return {"type": "http.disconnect"} if seen > BODY_LIMIT else message

    return limited


def _refuse(status: int, detail: str) -> tuple[int, bytes, str]:
    return status, json.dumps({"detail": detail}).encode(), "application/json"


def _pairs(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


async def _answer(send: Send, status: int, body: bytes, kind: str) -> None:
    headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store"}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    await send({"type": "http.response.start", "status": status, "headers": _pairs(headers)})
    await send({"type": "http.response.body", "body": body})
