"""The report in headless Chromium: a threshold that is dragged, by pointer and by keys, and what it then counts."""

from __future__ import annotations

import math
import re

import pytest

from edge_ad.calibrate.threshold import clopper_pearson
from edge_ad.report import charts, write_report

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # selenium's own sockets
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def opened(browser, measured, tmp_path):
    """Opens a report of two categories, of which the first is calibrated, on such a screen; its evaluation."""

    def show(width=1280, scheme="light"):
        evaluation, gallery = measured(("bottle", "grid"), {"bottle": 0.2})
        (tmp_path / "report.html").write_text(write_report(evaluation, gallery), encoding="utf-8")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 700}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.get((tmp_path / "report.html").as_uri())
        return evaluation

    return show


def counts(browser, panel=0):
    """(threshold, rejected, missed) as the report has them now, and its words."""
    words = browser.execute_script(f"return document.querySelectorAll('.counts')[{panel}].textContent")
    found = re.search(r"(\d+) of \d+ good photos? rejected, (\d+) of \d+ defects? missed", words)
    return browser.execute_script(f"return panels[{panel}].threshold"), int(found[1]), int(found[2]), words


def agree(browser, evaluation, panel=0):
    threshold, alarms, missed, words = counts(browser, panel)
    rates = list(evaluation.categories.values())[panel].rates(threshold)
    assert (alarms, missed) == (rates["false_alarms"], rates["missed"])
    return threshold, words


def drag(browser, panel, *shares):
    """Press the mouse at the first share of the histogram's axis, 0..1, and pull it to the others."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    histogram = browser.find_elements(By.CSS_SELECTOR, ".histogram")[panel]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", histogram)
    box = browser.execute_script("return arguments[0].viewBox.baseVal.width", histogram)
    hand = ActionChains(browser, duration=0)
    for i, share in enumerate(shares):
        at = round(histogram.rect["width"] * ((charts.LEFT + charts.WIDTH * share) / box - 0.5))  # from the middle
        hand.move_to_element_with_offset(histogram, at, 0)
        if i == 0:
            hand.click_and_hold()
    hand.release().perform()


def test_the_threshold_is_dragged_and_the_counts_follow(browser, opened):
    evaluation = opened()
    threshold, words = agree(browser, evaluation)
    assert threshold == 0.2
    assert words.startswith(
        "At the calibrated threshold 0.2000: 1 of 21 good photos rejected, 1 of 11 defects missed."
    )
    low, high = browser.execute_script("return panels[0].data.ends")
    for share in (0.1, 0.5, 0.9):
        drag(browser, 0, 0.3, share)
        threshold, words = agree(browser, evaluation)
        assert threshold == pytest.approx(low + share * (high - low), abs=0.01)
        assert "looks better than it is" in words
        for chart, axis in (("histogram", "x"), ("order", "y")):  # both lines went along
            line = f"document.querySelector('.{chart} .threshold')"
            start, end = (browser.execute_script(f"return {line}.{axis}{n}.baseVal.value") for n in (1, 2))
            assert start == end
            along = (start - charts.LEFT) / charts.WIDTH if axis == "x" else 1 - (start - charts.TOP) / charts.HEIGHT
            assert along == pytest.approx((threshold - low) / (high - low), abs=1e-3)
    assert counts(browser, 1)[0] != threshold  # the other category stays as it was
    drag(browser, 0, 0.5, 1.2)  # beyond the end
    assert agree(browser, evaluation)[0] == high
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_keys_and_buttons_move_it_too(browser, opened):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    evaluation = opened()
    slider = browser.find_element(By.CSS_SELECTOR, "input[type=range]")
    slider.send_keys(Keys.ARROW_RIGHT * 3)
    threshold, _ = agree(browser, evaluation)
    assert threshold > 0.2
    assert slider.get_attribute("aria-valuetext") == f"{threshold:.4g}"
    slider.send_keys(Keys.END)
    assert agree(browser, evaluation)[0] == browser.execute_script("return panels[0].data.ends[1]")
    for to, expected in (("no-miss", (6, 0)), ("no-alarm", (0, 2)), ("calibrated", (1, 1))):
        browser.find_element(By.CSS_SELECTOR, f"[data-to={to}]").send_keys(Keys.ENTER)
        agree(browser, evaluation)
        assert counts(browser)[1:3] == expected
    hidden = browser.find_elements(By.CSS_SELECTOR, "[data-to=calibrated]")[1]
    assert not hidden.is_displayed()  # the other category has no threshold to go back to


def test_a_shifts_parts_are_reckoned_with_a_bound(browser, opened):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    opened()
    for name, parts in (("good-parts", 5000), ("bad-parts", 100)):
        field = browser.find_element(By.ID, name)
        field.clear()
        field.send_keys(str(parts))
    words = counts(browser)[3]
    expected, most = 5000 / 21, math.ceil(5000 * clopper_pearson(1, 21)[1])
    assert f"about {expected:.0f} false alarms (with 95 % confidence at most {most:,})" in words
    most = math.ceil(100 * clopper_pearson(1, 11)[1])
    assert f"{100 / 11:.0f} missed defects (with 95 % confidence at most {most})" in words
    browser.find_element(By.ID, "bad-parts").send_keys(Keys.BACKSPACE * 3)
    assert "missed defect" not in counts(browser)[3]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out_and_words_stand_out_from_their_ground(browser, opened, width, scheme):
    opened(width, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    script = (
        "const css = e => getComputedStyle(document.querySelector(e));"
        "return [['.lead', 'body'], ['.lead .bad', 'body'], ['.lead .good', 'body'], ['small', 'body'],"
        "['.counts', '.panel']].map(([front, back]) => [css(front).color, css(back).backgroundColor])"
    )
    for front, back in browser.execute_script(script):
        assert contrast(front, back) >= 4.5, (front, back)  # WCAG 2.2, AA


def contrast(*colours):
    luminance = []
    for colour in colours:
        channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        luminance.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(luminance) + 0.05) / (min(luminance) + 0.05)
