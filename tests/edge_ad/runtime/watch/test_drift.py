"""Drift: the stated rate of false warnings holds, real drift is seen while scores are still below the threshold."""

import json

import cv2
import numpy as np
import pytest

from edge_ad.errors import ConfigError, DataError
from edge_ad.runtime.watch.drift import (
    POWERS,
    DriftConfig,
    DriftMonitor,
    DriftStatistic,
    ImageStatistics,
    _log_bets,
    accepted_reference,
    image_statistics,
)


def first_warning(statistic, values, rng):
    for part, value in enumerate(values, 1):
        statistic.update(float(value), float(rng.random()))
        if statistic.direction():
            return part
    return None


def calibration(scores, threshold=None):
    quantiles = np.quantile(scores, np.linspace(0, 1, 101)).tolist()
    return {
        "score_quantiles": quantiles,
        "normals": len(scores),
        "image_threshold": float(np.quantile(scores, 0.999)) if threshold is None else threshold,
        "false_alarm_rate": 0.001,
    }


def test_every_bet_is_a_density_and_so_fair():
    from scipy.stats import beta

    for p in (1e-6, 0.01, 0.3, 0.5, 0.99):
        expected = [[beta.logpdf(q, a, b) for a, b in POWERS] for q in (p, 1 - p)]
        np.testing.assert_allclose(_log_bets(p), expected, atol=1e-9)


def test_false_warnings_are_no_more_than_stated():
    """The mean number of parts to a false warning is at least the stated one, for a skewed score and few normals."""
    rng = np.random.default_rng(0)
    stated, runs, horizon = 150, 60, 3000
    lengths = []
    for _ in range(runs):
        config = DriftConfig(parts_between_false_warnings=stated, warm_up=2)
        statistic = DriftStatistic("score", config, streams=1, reference=rng.gumbel(size=60))
        lengths.append(first_warning(statistic, rng.gumbel(size=horizon), rng) or horizon)
    # Censoring at the horizon only lowers the mean; the slack is three standard errors of an exponential length.
    assert np.mean(lengths) >= stated * (1 - 3 / np.sqrt(runs))


@pytest.mark.parametrize(("shift", "at_most"), [(3.0, 15), (2.0, 40), (1.0, 150), (-2.0, 40)])
def test_delay_after_a_jump(shift, at_most):
    """Shift in standard deviations of the score; the stated rate is one in 100,000 parts over five numbers."""
    rng = np.random.default_rng(1)
    delays = []
    for _ in range(7):
        statistic = DriftStatistic("score", DriftConfig(), streams=5, reference=rng.normal(size=200))
        values = np.r_[rng.normal(size=100), rng.normal(size=600) + shift]
        part = first_warning(statistic, values, rng)
        assert part is not None
        assert part > 100, "a warning before the drift"
        delays.append(part - 100)
    assert np.median(delays) <= at_most, delays


def test_slow_drift_is_seen_before_false_alarms_rise():
    """Scores creep up by one standard deviation per 1,000 parts; the threshold lies 3.1 deviations up."""
    rng = np.random.default_rng(2)
    normals = rng.normal(10, 1, 300)
    threshold = 13.1
    monitor = DriftMonitor(calibration=calibration(normals, threshold), seed=0)
    false_alarms = 0
    for part in range(4000):
        score = rng.normal(10 + part / 1000, 1)
        if score > threshold:
            false_alarms += 1
            continue
        warning = monitor.update(score)
        if warning:
            break
    else:
        pytest.fail("no warning")
    assert (warning.name, warning.side) == ("score", "higher")
    assert part < 1500
    assert false_alarms <= 12  # at the calibrated rate of 0.001 it would be about 1
    assert warning.expected_false_alarm_rate >= 0.001
    assert "re-calibrate" in warning.advice


def test_ties_and_a_constant_score_are_no_drift():
    rng = np.random.default_rng(3)
    statistic = DriftStatistic(
        "score", DriftConfig(parts_between_false_warnings=1000), streams=5, reference=[1.0] * 50
    )
    assert first_warning(statistic, np.ones(2000), rng) is None


def test_a_dark_picture_warns_and_a_little_light_does_not():
    rng = np.random.default_rng(4)

    def part(exposure):
        return ImageStatistics(exposure + rng.normal(0, 1), 0.4 + rng.normal(0, 0.01), 0.5, 0.5)

    monitor = DriftMonitor(seed=0)
    for _ in range(300):
        assert monitor.update(rng.normal(), part(120)) is None
    for _ in range(300):  # three gray levels: certain, and nobody cares
        assert monitor.update(rng.normal(), part(117)) is None
    warnings = [warning for _ in range(200) if (warning := monitor.update(rng.normal(), part(90)))]
    assert [(w.name, w.side) for w in warnings] == [("exposure", "lower")]
    assert monitor.report()["warnings"][0]["advice"] == warnings[0].advice
    monitor.acknowledge()
    assert monitor.warnings == {}


def test_state_survives_a_restart(tmp_path):
    rng = np.random.default_rng(5)
    monitor = DriftMonitor(calibration=calibration(rng.normal(size=100)), seed=1)
    for _ in range(100):
        monitor.update(float(rng.normal()), ImageStatistics(100, 0.5, 0.5, 0.5))
    monitor.save(tmp_path / "drift.json")
    again = DriftMonitor(calibration=monitor.calibration, seed=1)
    again.restore(tmp_path / "drift.json")
    assert again.report() == monitor.report()
    json.dumps(monitor.report(), allow_nan=False)
    (tmp_path / "drift.json").write_text('{"version": 7}')
    with pytest.raises(DataError, match="version 7"):
        again.restore(tmp_path / "drift.json")


def test_reference_is_the_accepted_part_of_the_calibration():
    reference = accepted_reference(calibration(np.linspace(0, 1, 200), threshold=0.5), 1000)
    assert len(reference) == pytest.approx(100, abs=2)
    assert max(reference) <= 0.5
    assert accepted_reference({}, 10) == []


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="window is 0"):
        DriftConfig(window=0)


def test_image_statistics_follow_light_focus_and_place():
    picture = np.full((480, 640, 3), 40, np.uint8)
    cv2.rectangle(picture, (280, 200), (360, 280), (200, 200, 200), -1)
    cv2.putText(picture, "part", (285, 245), cv2.FONT_HERSHEY_PLAIN, 2, (20, 20, 20), 2)
    base = image_statistics(picture)
    assert base.position_x == pytest.approx(0.5, abs=0.01)
    assert base.position_y == pytest.approx(0.5, abs=0.01)
    moved = image_statistics(np.roll(picture, (48, -128), (0, 1)))
    assert moved.position_x == pytest.approx(0.3, abs=0.01)
    assert moved.position_y == pytest.approx(0.6, abs=0.01)
    assert image_statistics(cv2.GaussianBlur(picture, (9, 9), 0)).sharpness < 0.7 * base.sharpness
    assert image_statistics(cv2.add(picture, (20, 20, 20, 0))).exposure == pytest.approx(base.exposure + 20, abs=1)
    flat = image_statistics(np.zeros((30, 40), np.uint8))
    assert flat == ImageStatistics(0.0, 0.0, 0.5, 0.5)


def test_each_camera_has_a_monitor_and_another_artifact_begins_anew(
    run_settings, part_folder, line_artifact, tmp_path, caplog
):
    from edge_ad.runtime.line.inspector import Inspector
    from edge_ad.runtime.watch.stations import DriftWatch

    source = {"address": str(part_folder)}
    inspector = Inspector(run_settings({"name": "top", "source": source}, {"name": "side", "source": source}))
    statistics = ImageStatistics(100, 0.5, 0.5, 0.5)
    watch = DriftWatch(DriftConfig(warm_up=10), inspector.stations, tmp_path)
    for _ in range(400):
        assert watch.update("top", 0.1, statistics) is None
    warnings = [watch.update("side", 0.1, ImageStatistics(100 - (n > 200) * 60, 0.5, 0.5, 0.5)) for n in range(400)]
    assert [w.name for w in warnings if w] == ["exposure"]
    assert watch.report()["warnings"][0]["advice"].startswith("side: ")
    watch.acknowledge()
    assert watch.report()["warnings"] == []
    watch.save()

    (engine,) = inspector.engines.values()
    line_artifact.update(reports={"evaluated": 1})  # the same scores: nothing begins anew
    engine.reload_if_changed()
    watch.update("top", 0.1, statistics)
    assert watch.monitors["top"].statistics["exposure"].parts == 401
    line_artifact.update(calibration=line_artifact.manifest.calibration | {"image_threshold": 9.0})
    engine.reload_if_changed()
    watch.update("top", 0.1, statistics)
    assert watch.monitors["top"].statistics["exposure"].parts == 1
    assert "drift on top begins anew" in caplog.text
    again = DriftWatch(DriftConfig(), inspector.stations, tmp_path)
    again.restore()  # what was saved belongs to the calibration before
    assert again.monitors["side"].statistics["exposure"].parts == 0
    assert "another artifact or calibration" in caplog.text
    inspector._close()
