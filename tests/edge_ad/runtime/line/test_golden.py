"""Golden parts: no part gets an OK before they were judged right, and a wrong one blocks until a person releases."""

import asyncio
import json

import cv2
import pytest

from edge_ad.artifact import Artifact
from edge_ad.errors import ConfigError, DataError
from edge_ad.runtime.line.golden import GoldenGate
from edge_ad.runtime.line.inspector import Inspector
from edge_ad.runtime.line.line import Line
from edge_ad.runtime.line.policy import Judgement
from edge_ad.runtime.sinks.handshake import Handshake

OK = Judgement("OK", 0.1, 0.5, (), 0, "score 0.1 at or below threshold 0.5")
NG = Judgement("NG", 0.9, 0.5, (), 0, "score 0.9 above threshold 0.5")


@pytest.fixture
def photos(tmp_path, product):
    """(good, good, bad, bad): paths of golden photos."""
    paths = []
    for number in (0, 1, 4, 9):
        paths.append(str(tmp_path / f"golden{number}.png"))
        cv2.imwrite(paths[-1], product[0](number)[..., ::-1])
    return paths


@pytest.fixture
def inspector(run_settings, part_folder, photos):
    """An inspector whose golden photos are right, or wrong with swap=True; closed at the end."""
    made = []

    def make(swap=False, kind=Inspector, page=None, **golden):
        good, bad = (photos[2:], photos[:2]) if swap else (photos[:2], photos[2:])
        station = {
            "name": "top",
            "source": {"address": str(part_folder)},
            "golden": {"good": good, "bad": bad, **golden},
        }
        settings = run_settings(station, **({"page": page} if page else {}))
        made.append(kind(settings) if kind is Inspector else kind(settings, []))
        return made[-1]

    yield make
    for one in made:
        if isinstance(one, Inspector):
            one._close()


def events(inspector):
    return [(event.kind, event.text) for event in inspector.store.events("top")][::-1]


def test_right_photos_let_the_line_say_ok(inspector, stored):
    inspector().run()
    assert sum(verdict.decision == "OK" for verdict in stored()) == 16


def test_a_wrong_photo_blocks_every_ok_and_says_so(inspector, stored):
    one = inspector(swap=True, every_h=0)
    summary = one.run()
    assert summary.decisions["OK"] == 0
    assert summary.decisions["NG"] == 4  # rejects stay what they are
    held = [verdict for verdict in stored() if verdict.decision == "UNSURE"]
    assert len(held) == 16
    assert all("must be OK and was NG" in verdict.reason for verdict in held)
    assert all("at or below threshold" in verdict.reason for verdict in held)


def test_a_restart_does_not_lift_the_block_and_a_named_person_does(inspector):
    blocked = inspector(swap=True)
    blocked.gates[0].tick()
    assert [kind for kind, _ in events(blocked)].count("golden-part") == 4
    again = inspector()  # the photos are right now
    (gate,) = again.gates
    gate.tick()
    assert gate.blocks().startswith("OK is blocked")
    assert "repeated since: 4 golden parts were judged right" in gate.blocks()
    assert "golden parts top" in again.problems()
    with pytest.raises(DataError, match="without a name"):
        gate.release(" ", "")
    gate.release("Ada", "lamp replaced")
    assert gate.blocks() == ""
    assert again.problems() == {}
    assert events(again)[-1] == ("golden-released", "released by Ada: lamp replaced")
    with pytest.raises(DataError, match="not blocked"):
        gate.release("Ada", "")
    third = inspector()
    third.gates[0].tick()
    assert third.gates[0].blocks() == ""


def test_a_change_of_the_threshold_demands_them_again_at_once(inspector, line_artifact):
    one = inspector()
    (gate,), (station,) = one.gates, one.stations
    gate.tick()
    assert gate.apply("1", OK, station.engine.loaded) == OK
    changed = Artifact.open(line_artifact.path)
    changed.update(calibration=changed.manifest.calibration | {"image_threshold": 1e6})
    station.engine.force_reload()
    assert station.engine.reload_if_changed()
    assert gate.apply("2", OK, station.engine.loaded).decision == "UNSURE"  # before anybody looked
    gate.tick()
    assert gate.report()["state"] == "blocked"  # with that threshold nothing is found any more
    assert [part["wrong"] for part in gate.report()["parts"]] == [False, False, True, True]


def test_a_report_in_the_manifest_is_no_change(inspector, line_artifact):
    one = inspector()
    one.gates[0].tick()
    Artifact.open(line_artifact.path).update(reports={"note": 1})
    one.stations[0].engine.force_reload()
    assert one.stations[0].engine.reload_if_changed()
    assert one.gates[0].blocks() == ""


def test_they_are_demanded_every_few_hours(inspector):
    now = [0.0]
    one = inspector(every_h=2)
    gate = GoldenGate(one.stations[0], one.store, clock=lambda: now[0])
    gate.tick()
    assert gate.report()["due_s"] == pytest.approx(7200)
    now[0] = 7100
    gate.tick()
    assert len(events(one)) == 5  # four photos, passed
    now[0] = 7300
    gate.tick()
    assert [kind for kind, _ in events(one)][5:] == ["golden-due", *["golden-part"] * 4, "golden-passed"]


@pytest.fixture
def parts_gate(run_settings, part_folder):
    made = []

    def make(named, trigger, **more):
        golden = {"kind": "parts", "good": ["G1", "G2"], "bad": ["B1"], "named": named, **more}
        source = {"address": str(part_folder)}
        made.append(Inspector(run_settings({"name": "top", "source": source, "trigger": trigger, "golden": golden})))
        made[-1].gates[0].tick()
        return made[-1].gates[0], made[-1].stations[0].engine.loaded

    yield make
    for one in made:
        one._close()


def test_named_parts_count_whenever_they_come_and_get_no_ok_themselves(parts_gate):
    gate, loaded = parts_gate(True, {"kind": "http", "port": 0})
    assert "are due" in gate.apply("17", OK, loaded).reason
    for name, said in (("B1", NG), ("G2", OK), ("G1", OK)):
        shown = gate.apply(name, said, loaded)
        assert shown.decision == ("NG" if said is NG else "UNSURE")
        assert shown.reason.startswith(f"golden part {name}")
    assert gate.blocks() == ""
    assert gate.apply("18", OK, loaded) == OK
    assert gate.apply("19", NG, loaded) == NG
    gate.apply("G1", NG, loaded)  # shown of one's own accord, and wrong
    assert gate.apply("20", OK, loaded).reason.startswith("OK is blocked: golden part G1 must be OK and was NG")


def test_unnamed_parts_count_in_the_order_listed(parts_gate):
    gate, loaded = parts_gate(False, {"kind": "motion"}, instead="ERROR")
    assert gate.apply("1", OK, loaded).decision == "ERROR"
    gate.apply("2", OK, loaded)
    assert "B1" in gate.apply("3", NG, loaded).reason
    assert gate.apply("4", OK, loaded) == OK


def test_unsure_is_not_right(parts_gate):
    gate, loaded = parts_gate(True, {"kind": "http", "port": 0})
    gate.apply("B1", Judgement("UNSURE", 0.5, 0.5, (), 0, "near"), loaded)
    assert gate.report()["state"] == "blocked"


@pytest.mark.parametrize(
    ("golden", "trigger", "match"),
    [
        ({"good": ["a"]}, {}, "one kind only"),
        ({"good": ["a"], "bad": ["a"]}, {}, "named twice"),
        ({"good": ["a"], "bad": ["b"], "kind": "parts"}, {"kind": "motion"}, "no part's name"),
        ({"good": ["a"], "bad": ["b"], "kind": "parts", "named": False}, {"kind": "free"}, "no part from the next"),
        ({"good": ["a"], "bad": ["b"], "every_h": -1.0}, {}, "every_h"),
    ],
)
def test_settings_that_prove_nothing_are_refused(run_settings, golden, trigger, match):
    with pytest.raises(ConfigError, match=match):
        run_settings({"golden": golden, "trigger": trigger})


def test_a_missing_photo_is_refused_before_anything_runs(inspector):
    with pytest.raises(DataError, match=r"nowhere\.png"):
        inspector(good=["nowhere.png", "elsewhere.png"])


def test_a_photo_that_vanishes_later_is_no_proof(inspector, photos):
    one = inspector()
    with open(photos[3], "wb"):
        pass
    one.gates[0].tick()
    assert one.gates[0].report()["state"] == "blocked"
    assert one.gates[0].report()["parts"][3]["decision"] == "ERROR"


def test_the_plc_sees_the_block():
    changes, handshake = [], Handshake()
    handshake.changed = lambda: changes.append(handshake.signals().ok_blocked)
    handshake.set_online(True)
    handshake.set_ok_blocked(True)
    handshake.set_ok_blocked(True)
    handshake.set_ok_blocked(False)
    assert changes == [False, True, False]


def test_a_line_without_a_page_can_not_be_released_and_is_refused(inspector):
    with pytest.raises(ConfigError, match="golden parts without"):
        inspector(kind=Line)


def test_the_page_shows_the_block_and_only_the_token_lifts_it(inspector):
    pytest.importorskip("fastapi")
    httpx = pytest.importorskip("httpx")
    line = inspector(kind=Line, swap=True, page={"port": 0})
    (gate,) = line.inspector.gates
    gate.tick()

    async def talk():
        where = {"transport": httpx.ASGITransport(line.page.app), "base_url": "http://127.0.0.1"}
        async with httpx.AsyncClient(**where, headers={"X-EdgeAD": "1"}) as client:
            state = (await client.get("/api/state")).json()["golden"]
            body = {"station": "top", "by": "Ada", "note": "", "token": "a wrong one"}
            answers = [await client.post("/api/golden/release", json=body)]
            body["token"] = line.page.release_token
            answers.append(await client.post("/api/golden/repeat", json={"station": "top"}))
            answers += [await client.post("/api/golden/release", json=body | more) for more in ({"by": ""}, {}, {})]
            answers.append(await client.post("/api/golden/release", json=body | {"station": "none"}))
            return state, answers

    try:
        state, answers = asyncio.run(talk())
    finally:
        line.page.close()
        line.inspector._close()
    assert state[0]["state"] == "blocked"
    assert [part["wrong"] for part in state[0]["parts"]] == [True] * 4
    assert [answer.status_code for answer in answers] == [403, 200, 409, 200, 409, 404]
    assert gate.report()["state"] == "released"
    assert line.page.release_token not in json.dumps(gate.report())
