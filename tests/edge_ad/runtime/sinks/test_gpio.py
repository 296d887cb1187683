"""GPIO: the timing of pulses on a line that records its edges, and the calls into libgpiod's real package."""

import inspect
import time

import pytest

from edge_ad.errors import BackendError, ConfigError
from edge_ad.runtime.sinks.gpio import GpioConfig, GpiodLine, GpioSink
from edge_ad.runtime.verdict import Verdict, new_id


class Recorder:
    """An output line that writes down when it was driven."""

    def __init__(self, config):
        self.edges, self.closed, self.broken = [], False, False

    def set(self, active):
        if self.broken:
            raise OSError("line is gone")
        self.edges.append((active, time.monotonic_ns() / 1e6))

    def close(self):
        self.closed = True


def verdict(captured_ms, decision="NG"):
    return Verdict(new_id(), 0, int(captured_ms * 1e6), "cam", 0, "1", decision, 0.7, 0.5)


@pytest.fixture
def opened():
    sinks = []

    def make(**values):
        lines = []
        sink = GpioSink(GpioConfig(line="18", **values), lambda config: lines.append(Recorder(config)) or lines[0])
        sink.open()
        sinks.append(sink)
        return sink, lines[0]

    yield make
    for sink in sinks:
        sink.close()


def now():
    return time.monotonic_ns() / 1e6


def test_the_pulse_starts_a_fixed_time_after_the_picture(opened):
    sink, line = opened(delay_ms=100, width_ms=20, tolerance_ms=60_000)
    captured = now() - 40  # inference takes its time
    sink.write(verdict(captured))
    sink.write(verdict(captured, "OK"))
    sink.close()
    assert [active for active, _ in line.edges] == [True, False]
    start, end = (at for _, at in line.edges)
    assert start - captured >= 100  # a loaded machine is late, never early
    assert end - captured >= 120
    assert line.closed
    assert sink.pulses == 1


def test_pulses_that_overlap_become_one(opened):
    sink, line = opened(delay_ms=20, width_ms=60, tolerance_ms=60_000)
    captured = now()
    with sink._ready:  # however slow this machine is, both are planned before either begins
        sink.write(verdict(captured))
        sink.write(verdict(captured + 30))
    sink.close()
    assert [active for active, _ in line.edges] == [True, False]
    assert line.edges[1][1] - captured >= 110


def test_a_late_verdict_gives_no_pulse_and_is_counted(opened, caplog):
    sink, line = opened(delay_ms=10, width_ms=5, tolerance_ms=5)
    sink.write(verdict(now() - 100))
    assert sink.missed == 1
    assert "too late" in caplog.text
    sink.close()
    assert line.edges == []


def test_a_broken_line_is_reported_at_the_next_verdict(opened, wait_for):
    sink, line = opened(width_ms=1, tolerance_ms=60_000)
    line.broken = True
    sink.write(verdict(now()))
    wait_for(lambda: sink.error)
    with pytest.raises(BackendError, match="line is gone"):
        sink.write(verdict(now()))


@pytest.mark.parametrize("values", [{"line": ""}, {"width_ms": 0}, {"delay_ms": -1}, {"decisions": ("XX",)}])
def test_settings_are_checked(values):
    with pytest.raises(ConfigError):
        GpioConfig(**{"line": "18", **values})


def test_the_calls_into_libgpiod_fit_its_package():
    gpiod = pytest.importorskip("gpiod")
    if not hasattr(gpiod, "request_lines"):
        pytest.skip("this gpiod is version 1")
    inspect.signature(gpiod.request_lines).bind("/dev/gpiochip0", consumer="edgead", config={18: None})
    settings = gpiod.LineSettings(
        direction=gpiod.line.Direction.OUTPUT, active_low=True, output_value=gpiod.line.Value.INACTIVE
    )
    assert settings.active_low
    inspect.signature(gpiod.LineRequest.set_value).bind(None, 18, gpiod.line.Value.ACTIVE)
    with pytest.raises(BackendError, match="cannot take line 18"):
        GpiodLine(GpioConfig(chip="/dev/gpiochip-none", line="18"))
