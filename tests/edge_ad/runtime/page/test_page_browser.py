"""The operator page in headless Chromium: it fits, it answers the keyboard, it reports what is wrong."""

import importlib.util
import time
from pathlib import Path

import pytest

from edge_ad.runtime.page.server import OperatorPage, PageConfig

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # selenium's own sockets
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

_spec = importlib.util.spec_from_file_location("page_line", Path(__file__).with_name("page_line.py"))
page_line = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(page_line)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    line = page_line.Line(tmp_path_factory.mktemp("line"), parts=120)
    page = OperatorPage(line.view, PageConfig(port=0))
    page.start()
    yield line, page
    page.close()
    line.close()


def until(browser, script, timeout_s=120):
    end = time.monotonic() + timeout_s
    while not browser.execute_script(f"return Boolean({script})"):
        assert time.monotonic() < end, script
        time.sleep(0.05)


def press(browser, key):
    from selenium.webdriver.common.by import By

    browser.find_element(By.TAG_NAME, "body").send_keys(key)


def screen(browser, width, height):
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


@pytest.mark.parametrize(("width", "height"), [(1440, 810), (1024, 700), (390, 844)])
def test_the_verdict_is_large_and_nothing_sticks_out(browser, served, width, height):
    screen(browser, width, height)
    browser.get(served[1].address)
    until(browser, "document.body.dataset.state === 'NG' && !document.getElementById('picture').hidden")
    tall = browser.execute_script("return parseFloat(getComputedStyle(document.querySelector('.fit')).fontSize)")
    assert tall >= 0.12 * min(width, height)
    for key in "123":
        press(browser, key)
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth"), key
        inside = "const w = document.querySelector('.fit'); return w.scrollWidth <= w.clientWidth + 1"
        assert key != "1" or browser.execute_script(inside)
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_the_keyboard_steps_and_labels(browser, served):
    line, page = served
    screen(browser, 1440, 810)
    browser.get(page.address)
    press(browser, "2")
    until(browser, "document.querySelectorAll('#parts-list [aria-selected=true]').length === 1")
    first = browser.execute_script("return document.querySelector('[aria-selected=true]').id.slice(5)")
    press(browser, "g")
    until(browser, "document.getElementById('label-false').getAttribute('aria-pressed') === 'true'")
    assert line.store.get(first).review == "false_alarm"
    press(browser, "j")
    until(browser, f"document.querySelector('[aria-selected=true]').id !== 'part-{first}'")
    press(browser, "+")
    assert "scale(1.5)" in browser.execute_script("return document.getElementById('zoomed').style.transform")
    press(browser, "w")
    until(browser, "document.getElementById('zoomed').src.endsWith('/explanation')")
    until(browser, "document.getElementById('zoomed').naturalWidth === 600")
    press(browser, "j")
    until(browser, "!document.getElementById('zoomed').src.endsWith('/explanation')")


def test_a_picture_that_is_written_late_appears(browser, served):
    line, page = served
    screen(browser, 1440, 810)
    browser.get(page.address)
    until(browser, "document.querySelectorAll('#strip img').length === 6")
    late = page_line.verdict("NG", 0.9, number=7000)
    line.store.add(late)  # as the store has it, before the picture's file is there
    until(browser, "document.querySelectorAll('#strip img').length === 5")
    press(browser, "2")
    until(browser, f"document.getElementById('part-{late.id}')")
    browser.execute_script(f"document.getElementById('part-{late.id}').click()")
    until(browser, "!document.getElementById('no-zoom').hidden")
    line.files[late.id] = next(iter(line.files.values()))
    until(browser, "document.getElementById('no-zoom').hidden")
    press(browser, "1")
    until(browser, "document.querySelectorAll('#strip img').length === 6")


def test_a_lost_camera_and_a_dead_inspector_are_plain_to_see(browser, served, tmp_path):
    line = page_line.Line(tmp_path, parts=20, newest="OK")
    page = OperatorPage(line.view, PageConfig(port=0))
    page.start()
    browser.get(page.address)
    until(browser, "document.body.dataset.state === 'OK'")
    line.cameras[0].update(state="lost", message="the camera does not answer")
    until(browser, "document.getElementById('state').textContent === 'NO PICTURE'")
    assert "does not answer" in browser.execute_script("return document.getElementById('banner').textContent")
    page.close()
    line.close()
    until(browser, "document.getElementById('state').textContent === 'NO LINK'")
    browser.get("about:blank")
    browser.get_log("browser")


def test_a_wrong_golden_part_blocks_plainly_and_a_person_with_the_token_releases(browser, tmp_path):
    from selenium.webdriver.common.by import By

    line = page_line.Line(tmp_path, parts=20, newest="OK")
    gate = page_line.golden_gate(line.store)
    line.view.gates = (gate,)
    page = OperatorPage(line.view, PageConfig(port=0))
    page.start()

    def text():
        return browser.execute_script("return document.getElementById('golden').innerText")

    def field(name):
        return browser.find_element(By.CSS_SELECTOR, f"#golden input[name={name}]")

    screen(browser, 1440, 810)
    browser.get(page.address)
    until(browser, "!document.getElementById('golden').hidden")
    assert "No OK yet: golden parts are due" in text()
    assert "Show the parts below to the camera" in text()
    assert not browser.find_elements(By.CSS_SELECTOR, "#golden form")  # nobody releases what was not shown
    for part in ("master/good-1", "master/scratch"):
        page_line.show_golden(gate, part, "OK")
    until(browser, "document.querySelector('#golden form')")
    assert "No OK: a golden part was judged wrong" in text()
    wrong = browser.find_elements(By.CSS_SELECTOR, "#golden tr[data-wrong=true]")
    assert [row.text.split() for row in wrong] == [["master/scratch", "NG", "✕", "OK", "0.100", "0.500"]]
    assert browser.find_element(By.ID, "golden-lamp").text == "No OK: golden parts"
    until(browser, "document.getElementById('state').textContent === 'NO OK'")  # the last part was OK, before
    for width, height in ((390, 844), (1440, 810)):
        screen(browser, width, height)
        until(browser, f"innerWidth === {width}")  # a phone zooms out where something sticks out
        inside = "const g = document.getElementById('golden'); return g.scrollWidth <= g.clientWidth"
        assert browser.execute_script(inside), width
    field("by").send_keys("Ada")
    field("note").send_keys("lamp replaced")
    field("token").send_keys("not this one\n")
    until(browser, "document.querySelector('#golden [role=status]').textContent.includes('not the token')")
    assert gate.report()["state"] == "blocked"
    assert field("by").get_attribute("value") == "Ada"  # what was typed is still there
    field("token").clear()
    field("token").send_keys(page.release_token + "\n")
    until(browser, "document.getElementById('golden').hidden")
    assert browser.find_element(By.ID, "golden-lamp").text == "Golden parts: released by Ada"
    until(browser, "document.getElementById('state').textContent === 'OK'")
    (released,) = [event for event in line.store.events() if event.kind == "golden-released"]
    assert released.facts == {"by": "Ada", "note": "lamp replaced"}
    browser.get("about:blank")
    browser.get_log("browser")  # the refused token is an error there
    page.close()
    line.close()


def test_a_token_lets_in(browser, served):
    from selenium.webdriver.common.by import By

    page = OperatorPage(served[0].view, PageConfig(host="0.0.0.0", port=0, token=page_line.TOKEN))
    page.start()
    browser.get(f"http://127.0.0.1:{page.port}")
    until(browser, "document.getElementById('token')")
    browser.find_element(By.ID, "token").send_keys(page_line.TOKEN + "\n")
    until(browser, "document.body.dataset.state === 'NG'")
    browser.get("about:blank")
    page.close()
