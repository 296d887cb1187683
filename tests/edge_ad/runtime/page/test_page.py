"""The operator page over HTTP: what it answers, and whom it answers."""

import asyncio
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import httpx

from edge_ad.errors import BackendError, ConfigError
from edge_ad.runtime.page.app import STATIC, create_app
from edge_ad.runtime.page.guard import COOKIE, Sessions, is_loopback
from edge_ad.runtime.page.live import paint, shrink
from edge_ad.runtime.page.server import OperatorPage, PageConfig

WRITE = {"X-EdgeAD": "1"}
_spec = importlib.util.spec_from_file_location("page_line", Path(__file__).with_name("page_line.py"))
page_line = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(page_line)


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    line = page_line.Line(tmp_path_factory.mktemp("line"), parts=200)
    yield line
    line.close()


class Page:
    """Requests to the application, without a socket."""

    def __init__(self, line, token="", base="http://127.0.0.1:8080"):
        self.app = create_app(line.view, version="1", token=token, hosts=frozenset({"127.0.0.1", "localhost", "::1"}))
        self.base, self.cookies = base, {}

    def __call__(self, method, path, **options):
        async def ask():
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url=self.base, cookies=self.cookies) as client:
                return await client.request(method, path, **options)

        return asyncio.run(ask())

    def close(self):
        self.app.app.state.data.close()


@pytest.fixture
def page(line):
    page = Page(line)
    yield page
    page.close()


def test_the_state_says_what_the_line_does(page):
    state = page("GET", "/api/state").json()
    assert state["verdict"]["decision"] == "NG"
    assert state["cameras"][0]["state"] == "running"
    assert 0.9 < state["hour"]["yield"] < 1
    assert state["health"] == {"live": True, "ready": True, "problems": []}
    assert set(state["drift"]["statistics"]) == {"score", "exposure", "sharpness", "position_x", "position_y"}


def test_every_answer_forbids_foreign_content(page):
    for path in ("/", "/api/state", "/static/app.js", "/nothing", "/openapi.json"):
        headers = page("GET", path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"


def test_the_front_end_is_whole_and_asks_nobody_else(page):
    pages = {name: page("GET", f"/static/{name}") for name in STATIC}
    assert {name: answer.status_code for name, answer in pages.items()} == dict.fromkeys(STATIC, 200)
    for text in (page("GET", "/").text, *(answer.text for answer in pages.values())):
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    again = page("GET", "/static/app.js", headers={"If-None-Match": pages["app.js"].headers["etag"]})
    assert again.status_code == 304


@pytest.mark.parametrize(
    "path",
    [
        "/static/../page.py",
        "/static/..%2fpage.py",
        "/static/%2e%2e/page.py",
        "/static/index.html",
        "/api/verdicts/..%2f..%2fetc/pictures/picture",
        "/api/verdicts/%2e%2e/pictures/picture",
        "/api/verdicts/x/pictures/..%2fpasswd",
        "//etc/passwd",
    ],
)
def test_no_path_leads_elsewhere(page, path):
    assert page("GET", path).status_code in (404, 422)


def test_a_part_is_explained_where_a_picture_was_kept(page, line):
    parts = page("GET", "/api/verdicts?limit=200").json()["verdicts"]
    reject = next(row for row in parts if row["decision"] == "NG")
    answer = page("GET", f"/api/verdicts/{reject['id']}/explanation")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert line.explained[-1] == reject["id"]
    plain = next(row for row in parts if row["decision"] == "OK")
    answer = page("GET", f"/api/verdicts/{plain['id']}/explanation")
    assert (answer.status_code, answer.json()["detail"]) == (404, "no picture was kept of this part")
    assert page("GET", "/api/verdicts/0123/explanation").status_code == 404


def test_verdicts_come_by_page_and_kind(page):
    first = page("GET", "/api/verdicts?limit=10").json()["verdicts"]
    assert [row["seq"] for row in first] == sorted((row["seq"] for row in first), reverse=True)
    rest = page("GET", f"/api/verdicts?limit=10&before={first[-1]['seq']}").json()["verdicts"]
    assert rest[0]["seq"] == first[-1]["seq"] - 1
    assert page("GET", f"/api/verdicts?after={first[0]['seq']}").json()["verdicts"] == []
    rejects = page("GET", "/api/verdicts?filter=rejects").json()["verdicts"]
    assert {row["decision"] for row in rejects} == {"NG", "UNSURE"}
    picture = page("GET", f"/api/verdicts/{rejects[0]['id']}/pictures/picture")
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/png")
    assert page("GET", f"/api/verdicts/{rejects[0]['id']}/pictures/map").status_code == 404


def test_a_label_is_stored_and_feeds_the_recalibration(page, line):
    row = page("GET", "/api/verdicts?filter=rejects&limit=1").json()["verdicts"][0]
    good = line.folder / "recalibration" / "good" / f"labelled-{row['id']}.png"
    bad = line.folder / "recalibration" / "bad" / f"labelled-{row['id']}.png"
    path = f"/api/verdicts/{row['id']}/label"
    assert page("POST", path, json={"label": "good"}, headers=WRITE).json()["review"] == "false_alarm"
    assert good.exists()
    assert not bad.exists()
    page("POST", path, json={"label": "defect"}, headers=WRITE)
    assert line.store.get(row["id"]).review == "true_alarm"
    assert (good.exists(), bad.exists()) == (False, True)
    page("POST", path, json={"label": None}, headers=WRITE)
    assert line.store.get(row["id"]).review is None
    assert (good.exists(), bad.exists()) == (False, False)
    said = [event.text for event in reversed(line.store.events()) if event.kind == "labelled"]
    assert said[0] == f"part {row['part']}, judged {row['decision']}, was called good on the page"
    assert [text.partition("was ")[2] for text in said[1:]] == [
        "called defect on the page", "no longer called anything on the page",
    ]  # fmt: skip
    assert page("POST", "/api/verdicts/none/label", json={"label": "good"}, headers=WRITE).status_code == 404
    assert page("POST", path, json={"label": "maybe"}, headers=WRITE).status_code == 422


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-EdgeAD": "2"},
        {**WRITE, "Sec-Fetch-Site": "cross-site"},
        {**WRITE, "Sec-Fetch-Site": "same-site"},
        {**WRITE, "Origin": "http://evil.example"},
        {**WRITE, "Origin": "null"},
        {**WRITE, "Origin": "http://127.0.0.1:9999"},
    ],
)
def test_writes_from_other_pages_are_refused(page, headers):
    assert page("POST", "/api/drift/acknowledge", json={}, headers=headers).status_code == 403


def test_writes_from_the_page_itself_are_taken(page, line):
    same = {**WRITE, "Origin": "http://127.0.0.1:8080", "Sec-Fetch-Site": "same-origin"}
    assert page("POST", "/api/drift/acknowledge", json={}, headers=same).status_code == 200
    assert line.store.events(limit=1)[0].kind == "drift-acknowledged"
    assert page("POST", "/api/drift/acknowledge", content=b" " * 70_000, headers=WRITE).status_code == 413


def test_writes_behind_a_proxy_that_does_not_pass_the_host_are_taken(line):
    page = Page(line)
    public = {**WRITE, "Origin": "https://line4.plant"}
    assert page(
        "POST", "/api/drift/acknowledge", json={}, headers=public | {"Sec-Fetch-Site": "same-origin"}
    ).is_success
    refused = page("POST", "/api/drift/acknowledge", json={}, headers=public)  # plain http: the browser says nothing
    assert refused.status_code == 403
    assert "proxy_set_header Host" in refused.json()["detail"]
    page.app.proxies = frozenset({"line4.plant"})
    assert page("POST", "/api/drift/acknowledge", json={}, headers=public).is_success
    page.close()


def test_probes_may_use_head(page):
    for path in ("/healthz", "/readyz", "/", "/static/style.css"):
        assert page("HEAD", path).status_code == page("GET", path).status_code, path
        assert page("HEAD", path).content == b""


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", ""])
def test_a_rebound_name_is_refused(page, host):
    assert page("GET", "/api/state", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost", "[::1]:8080"])
def test_the_machines_own_names_are_known(page, host):
    assert page("GET", "/api/state", headers={"Host": host}).status_code == 200


def test_elsewhere_a_token_is_asked_for(line):
    page = Page(line, token=page_line.TOKEN, base="http://inspector.plant:8080")
    for path in ("/api/state", "/live.jpg", "/openapi.json", "/static/app.js", "/metrics"):
        assert page("GET", path).status_code == 401
    assert page("GET", "/healthz").status_code == 200
    front = page("GET", "/")
    assert (front.status_code, "<form" in front.text) == (401, True)
    assert page("GET", "/api/state", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert page("GET", "/api/state", headers={"Authorization": f"Bearer {page_line.TOKEN}"}).status_code == 200
    assert page("POST", "/api/login", json={"token": "wrong"}, headers=WRITE).status_code == 401
    answer = page("POST", "/api/login", json={"token": page_line.TOKEN}, headers=WRITE)
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    page.cookies = {COOKIE: answer.cookies[COOKIE]}
    assert page("GET", "/api/state").status_code == 200
    page.cookies = {COOKIE: "9999999999.0000"}
    assert page("GET", "/api/state").status_code == 401
    for _ in range(12):
        last = page("POST", "/api/login", json={"token": "wrong"}, headers=WRITE)
    assert last.status_code == 429
    page.close()


@pytest.mark.parametrize(
    ("body", "status"),
    [(b'{"token": "\\ud800"}', 401), (b'{"token": NaN}', 422), (b'{"\\ud800": 1}', 422), (b"[", 422)],
)
def test_what_cannot_be_sent_back_is_no_failure(line, body, status):
    """Before anybody has signed in: half a surrogate pair made a traceback of each answer that repeats its input."""
    page = Page(line, token=page_line.TOKEN)
    answer = page("POST", "/api/login", content=body, headers=WRITE | {"Content-Type": "application/json"})
    assert answer.status_code == status
    assert answer.json()["detail"]
    page.close()


def test_sessions_end_and_cannot_be_made_up():
    now = [1000.0]
    sessions = Sessions(page_line.TOKEN, clock=lambda: now[0])
    value = sessions.issue()
    assert sessions.is_session(value)
    assert not sessions.is_session(value.replace("1", "2", 1))
    assert not Sessions("another long token", clock=lambda: now[0]).is_session(value)
    for junk in ("", ".", "a.b", "١٢.00", "9" * 40 + ".00", "\udcff.00"):
        assert not sessions.is_session(junk)
    now[0] += 13 * 3600
    assert not sessions.is_session(value)


def test_the_live_picture_is_encoded_only_when_asked_for_and_once(page, line):
    before = line.encoded
    page("GET", "/api/state")
    assert line.encoded == before
    first = page("GET", "/live.jpg")
    assert (first.status_code, first.headers["x-sequence"]) == (200, "1")
    assert first.content[:3] == b"\xff\xd8\xff"
    assert page("GET", "/live.jpg?heat=false").content != first.content
    line.newest = line.newest._replace(sequence=2)
    assert page("GET", "/live.jpg?after=1").headers["x-sequence"] == "2"


def test_the_heat_map_leaves_good_parts_as_they_are(line):
    good = line.newest._replace(pixel_scores=np.zeros((8, 8), np.float32), boxes=())
    np.testing.assert_array_equal(paint(good), good.frame)
    assert (paint(line.newest) != line.newest.frame).any()
    assert shrink(np.zeros((1500, 2560, 3), np.uint8)).shape == (750, 1280, 3)


def test_health_and_readiness(page, line):
    assert page("GET", "/readyz").json() == {"ok": True, "problems": []}
    line.health.fails("camera", "no picture")
    assert page("GET", "/healthz").status_code == 200
    answer = page("GET", "/readyz")
    assert (answer.status_code, answer.json()["problems"]) == (503, ["camera: no picture"])
    line.health.works("camera")


def test_charts_have_numbers(page):
    series = page("GET", "/api/series?minutes=240&buckets=24").json()
    assert sum(series["parts"]) == 200
    assert all(value is None or 5 < value < 30 for value in series["latency_p50_ms"])
    threshold = page("GET", "/api/threshold").json()
    assert sum(threshold["counts"]) == threshold["parts"] == 200
    assert threshold["edges"][0] < threshold["image_threshold"] < threshold["edges"][-1]


def test_it_serves_on_a_port_and_names_one_that_is_taken(line):
    page = OperatorPage(line.view, PageConfig(port=0))
    page.start()
    assert page.token == ""
    assert httpx.get(page.address + "/api/state").json()["line"] == "Press 4"
    with pytest.raises(BackendError, match=f":{page.port}"):
        OperatorPage(line.view, PageConfig(port=page.port))
    page.close()
    beyond = OperatorPage(line.view, PageConfig(host="0.0.0.0", port=0))
    assert len(beyond.token) >= 32
    beyond.close()


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="5 characters"):
        PageConfig(token="short")
    assert [is_loopback(name) for name in ("::1", "127.3.4.5", "localhost", "0.0.0.0", "192.168.1.4", "evil")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip


def test_no_request_breaks_it(line):
    """schemathesis draws requests from the page's own OpenAPI description: none may fail inside."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    page = Page(line)
    schema = schemathesis.openapi.from_dict(json.loads(page("GET", "/openapi.json").text))
    operations = [one.ok() for one in schema.get_all_operations() if "/live.jpg" not in one.ok().path]
    assert len(operations) >= 8

    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.one_of([operation.as_strategy() for operation in operations]))
    def ask(case):
        values = case.as_transport_kwargs(base_url=page.base)
        body = {name: values[name] for name in ("json", "data", "params", "cookies") if values.get(name) is not None}
        body["content" if isinstance(body.get("data"), (bytes, str)) else "data"] = body.pop("data", None)
        headers = {key: str(value) for key, value in (values.get("headers") or {}).items()} | WRITE
        path = httpx.URL(values["url"]).raw_path.decode()
        body.pop("cookies", None)
        answer = page(values["method"], path, headers=headers, **{k: v for k, v in body.items() if v is not None})
        assert answer.status_code < 500 or answer.json().get("hint"), answer.text

    ask()
    page.close()
