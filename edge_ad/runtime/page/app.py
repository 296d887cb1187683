"""The operator page's routes. Imported only by edge_ad.runtime.page.server, which checks that FastAPI is there."""

from __future__ import annotations

import asyncio
import hashlib
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, ConfigDict

from edge_ad.errors import DataError, EdgeAdError
from edge_ad.runtime.page.data import Filter, Gate, Label, LineView, PageData, PictureKind
from edge_ad.runtime.page.guard import COOKIE, SESSION_S, Guard, Sessions
from edge_ad.runtime.page.live import LivePicture
from edge_ad.runtime.verdict import writable
from edge_ad.runtime.watch.health import answer

KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
STATIC = (
    "style.css",
    "app.js",
    "api.js",
    "charts.js",
    "golden.js",
    "numbers.js",
    "review.js",
    "login.js",
    "icon.svg",
)
WAIT_S = 5.0  # how long a request for a newer picture waits
WATCHERS = 16
VerdictId = Annotated[str, Path(pattern=r"^[0-9A-Za-z_-]{1,64}$")]
Sequence = Annotated[int, Query(ge=-1, le=2**53)]
Camera = Annotated[str | None, Query(max_length=200)]


class Body(BaseModel):
    """What a write sends: nothing that its route does not know, and nothing at all by itself."""

    model_config = ConfigDict(extra="forbid")


class LabelBody(Body):
    """What a person says the part was; null takes it back."""

    label: Label | None


class StationBody(Body):
    """Which station."""

    station: str


class ReleaseBody(StationBody):
    """Who releases the line, why, and the token that lets them."""

    token: str
    by: str
    note: str = ""


class LoginBody(Body):
    """The token that the inspector printed."""

    token: str


def create_app(
    view: LineView,
    *,
    version: str,
    token: str,
    hosts: frozenset[str],
    release_token: str = "",
    proxies: frozenset[str] = frozenset(),
) -> Guard:
    """The guarded ASGI application. token: empty where none is asked for. release_token: lifts the block of golden
    parts; empty: nothing does. hosts, proxies: see Guard."""
    data = PageData(view)
    sessions = Sessions(token) if token else None
    app = FastAPI(title="EdgeAD operator page", version=version, docs_url=None, redoc_url=None)
    app.state.data = data
    _static(app)
    _reading(app, data, version)
    _pictures(app, view, data)
    _writing(app, view, data, sessions)
    _golden(app, view, Sessions(release_token) if release_token else None)

    @app.exception_handler(EdgeAdError)
    def known(request: Request, error: EdgeAdError) -> JSONResponse:
        return JSONResponse({"detail": error.message, "hint": error.hint}, 503)

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        """As FastAPI's own, without the input: half a surrogate pair or NaN in it could not be sent back."""
        rows = [
            {"type": row["type"], "loc": [writable(str(step)) for step in row["loc"]], "msg": writable(row["msg"])}
            for row in error.errors()
        ]
        return JSONResponse({"detail": rows}, 422)

    return Guard(app, sessions=sessions, hosts=hosts, proxies=proxies, login_page=_asset("login.html"))


def _asset(name: str) -> bytes:
    return files("edge_ad.runtime.page").joinpath("static").joinpath(name).read_bytes()


def _static(app: FastAPI) -> None:
    """Serves the listed files from memory: no path from a request ever reaches the disk."""
    assets = {name: _asset(name) for name in (*STATIC, "index.html")}
    tags = {name: f'"{hashlib.sha256(content).hexdigest()[:16]}"' for name, content in assets.items()}

    def serve(name: str, request: Request) -> Response:
        headers = {"ETag": tags[name], "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tags[name]:
            return Response(status_code=304, headers=headers)
        return Response(assets[name], media_type=KINDS[name.rpartition(".")[2]], headers=headers)

    @app.get("/", include_in_schema=False)
    def index(request: Request) -> Response:
        return serve("index.html", request)

    @app.get("/static/{name}", include_in_schema=False)
    def static(name: str, request: Request) -> Response:
        if name not in STATIC:
            raise HTTPException(404, "no such file")
        return serve(name, request)


def _reading(app: FastAPI, data: PageData, version: str) -> None:
    @app.get("/healthz", responses={503: {"description": "a loop has stalled"}})
    def healthz() -> Response:
        """Alive?"""
        status, body = answer(data.view.health, "/healthz")
        return JSONResponse(body, status)

    @app.get("/readyz", responses={503: {"description": "not inspecting"}})
    def readyz() -> Response:
        """Inspecting?"""
        status, body = answer(data.view.health, "/readyz")
        return JSONResponse(body, status)

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}, 404: {"description": "not counted"}})
    def metrics() -> Response:
        """Prometheus' metrics."""
        if data.view.metrics is None:
            raise HTTPException(404, "metrics are not counted: add [sink.prometheus] to the settings")
        return Response(data.view.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/api/state")
    def state() -> dict[str, Any]:
        """The newest verdict and the state of cameras, outputs and drift."""
        return data.state(version)

    @app.get("/api/verdicts")
    def verdicts(
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
        after: Sequence | None = None,
        before: Sequence | None = None,
        filter: Filter = "all",
    ) -> dict[str, Any]:
        """Verdicts, newest first."""
        return {"verdicts": data.verdicts(limit=limit, after=after, before=before, kind=filter)}

    @app.get("/api/verdicts/{id}", responses={404: {"description": "no such verdict"}})
    def verdict(id: VerdictId) -> dict[str, Any]:
        """One verdict."""
        return _found(data.verdict(id))

    @app.get("/api/series")
    def series(
        minutes: Annotated[int, Query(ge=1, le=7 * 24 * 60)] = 480, buckets: Annotated[int, Query(ge=1, le=200)] = 48
    ) -> dict[str, Any]:
        """Yield and latency over time."""
        return data.series(minutes, buckets)

    @app.get("/api/threshold")
    def threshold(camera: Camera = None) -> dict[str, Any]:
        """The threshold, its stated false-alarm rate, and a histogram of the last scores."""
        return data.threshold(camera)


def _pictures(app: FastAPI, view: LineView, data: PageData) -> None:
    live = LivePicture(view.newest)
    watchers = asyncio.Semaphore(WATCHERS)

    @app.get(
        "/live.jpg",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}, 204: {"description": "nothing newer"}, 503: {}},
    )
    async def picture(after: Sequence = -1, heat: bool = True, camera: Camera = None) -> Response:
        """The newest picture as soon as it is not the one called `after`."""
        if watchers.locked():
            raise HTTPException(503, "too many people watch already")
        async with watchers:
            until = asyncio.get_running_loop().time() + WAIT_S
            while True:
                found = await run_in_threadpool(live.after, after, camera, heat)
                if found:
                    headers = {"X-Sequence": str(found[0]), "Cache-Control": "no-store"}
                    return Response(found[1], media_type="image/jpeg", headers=headers)
                if asyncio.get_running_loop().time() > until:
                    return Response(status_code=204)
                await asyncio.sleep(0.03)

    @app.get(
        "/api/verdicts/{id}/pictures/{kind}",
        response_class=FileResponse,
        responses={200: {"content": {"image/png": {}, "image/jpeg": {}}}, 404: {"description": "no such picture"}},
    )
    def kept(id: VerdictId, kind: PictureKind) -> FileResponse:
        """A picture kept of a verdict."""
        path = data.picture(id, kind)
        if path is None:
            raise HTTPException(404, "no such picture")
        return FileResponse(path, headers={"Cache-Control": "private, max-age=3600"})

    @app.get(
        "/api/verdicts/{id}/explanation",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}, 404: {"description": "no picture of such a verdict"}},
    )
    def explanation(id: VerdictId) -> Response:
        """Why the part got its score, in one picture."""
        try:
            picture = data.explanation(id)
        except DataError as error:
            raise HTTPException(404, error.message) from error
        if picture is None:
            raise HTTPException(404, "no such verdict")
        return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "no-store"})


def _writing(app: FastAPI, view: LineView, data: PageData, sessions: Sessions | None) -> None:
    refused: dict[int | str, dict[str, Any]] = {403: {"description": "not from this page"}}

    @app.post("/api/verdicts/{id}/label", responses={**refused, 404: {"description": "no such verdict"}})
    def label(id: VerdictId, body: LabelBody) -> dict[str, Any]:
        """Label the part."""
        return _found(data.label(id, body.label))

    @app.post("/api/drift/acknowledge", responses={**refused, 404: {"description": "drift is not watched"}})
    def acknowledge(body: Body) -> dict[str, Any]:
        """The drift was seen to: warnings go, the evidence starts anew."""
        if view.drift is None:
            raise HTTPException(404, "drift is not watched")
        view.drift.acknowledge()
        data.note("", "drift-acknowledged", "drift was acknowledged on the page")
        return {"ok": True}

    @app.post("/api/login", responses={**refused, 401: {"description": "not the token"}, 429: {}})
    def login(body: LoginBody, request: Request) -> Response:
        """Exchanges the token for a cookie that scripts cannot read."""
        if sessions is None:
            return JSONResponse({"ok": True})
        if sessions.is_throttled():
            raise HTTPException(429, "too many attempts")
        if not sessions.is_token(body.token):
            sessions.count_failure()
            raise HTTPException(401, "that is not the token")
        response = JSONResponse({"ok": True})
        secure = request.url.scheme == "https"
        response.set_cookie(
            COOKIE, sessions.issue(), max_age=SESSION_S, httponly=True, samesite="strict", secure=secure
        )
        return response


def _golden(app: FastAPI, view: LineView, keys: Sessions | None) -> None:
    def gate_of(station: str) -> Gate:
        for gate in view.gates:
            if gate.report()["station"] == station:
                return gate
        raise HTTPException(404, "no golden parts are demanded there")

    @app.post("/api/golden/repeat", responses={403: {"description": "not from this page"}, 404: {}})
    def repeat(body: StationBody) -> dict[str, Any]:
        """Demands a station's golden parts once more."""
        gate = gate_of(body.station)
        gate.demand("asked for on the page")
        return gate.report()

    @app.post("/api/golden/release", responses={403: {"description": "not the token"}, 404: {}, 409: {}, 429: {}})
    def release(body: ReleaseBody) -> dict[str, Any]:
        """Lifts the block after a wrong golden part; the token is asked for again, whoever is logged in."""
        gate = gate_of(body.station)
        if keys is None or keys.is_throttled():
            raise HTTPException(429, "too many attempts")
        if not keys.is_token(body.token):
            keys.count_failure()
            raise HTTPException(403, "that is not the token")
        try:
            gate.release(body.by, body.note)
        except DataError as error:
            raise HTTPException(409, f"{error.message}: {error.hint}") from error
        return gate.report()


def _found(value: dict[str, Any] | None) -> dict[str, Any]:
    if value is None:
        raise HTTPException(404, "no such verdict")
    return value
