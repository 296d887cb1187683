"""Where growing disturbances break a detector, on one whose score is how far the mean gray level is from 128."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("scipy")

from edge_ad.data.images import write_image
from edge_ad.data.samples import Sample
from edge_ad.qualify.robustness import breaks_promise, loses_defects, pictures, robustness
from edge_ad.qualify.subject import Subject


class Brightness:
    """A predictor; `seen` counts the frames."""

    def __init__(self):
        self.seen = 0

    def predict_batch(self, frames):
        self.seen += len(frames)
        return [SimpleNamespace(image_score=abs(float(frame.mean()) - 128)) for frame in frames]


@pytest.fixture
def subject(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(8):
        for kind, gray in (("good", 128), ("bad", 160)):
            frame = np.clip(rng.normal(gray, 3, (32, 48, 3)), 0, 255).astype(np.uint8)
            write_image(tmp_path / kind / f"{i}.png", frame)
    good, bad = (sorted((tmp_path / kind).iterdir()) for kind in ("good", "bad"))
    return Subject(Brightness(), 20.0, good, [Sample(path, "test", 1, "dark", None, "part") for path in bad])


def row(study, name):
    return next(row for row in study["rows"] if row["name"] == name)


def test_halving_finds_the_same_breaks_with_fewer_pictures(subject):
    halved = robustness(subject, 0.05, 9.0)
    few, subject.predictor.seen = subject.predictor.seen, 0
    all_of_them = robustness(subject, 0.05, 9.0, every=True)
    for study in (halved, all_of_them):
        assert (study["good"], study["defects"], study["real"]) == (8, 8, True)
        assert (study["alarms_before"], study["found_before"]) == (0, 8)
        darker, brighter = row(study, "darker light"), row(study, "brighter light")
        assert darker["promise_breaks"] == 2  # 20 % darker: 128 becomes 102
        assert darker["detection_breaks"] == 1  # 10 % darker: 160 becomes 144
        assert darker["warned_in_time"]  # exposure fell by 13 at 10 %
        assert brighter["promise_breaks"] == 2
        assert brighter["detection_breaks"] is None
        assert row(study, "blur")["warned_in_time"] is None
    steps = row(all_of_them, "darker light")["steps"]
    assert [step["alarms"] for step in steps] == [0, 0, 8, 8, 8]
    assert [step["found"] for step in steps] == [8, 0, 0, 8, 8]  # at 35 % 104: found again, as too dark
    assert few < 0.7 * subject.predictor.seen
    assert few <= 16 + pictures(8, 8)
    assert subject.predictor.seen == pictures(8, 8, every=True)  # the photos as they are were scored already


def test_without_real_defects_marks_stand_in(subject):
    import dataclasses

    study = robustness(dataclasses.replace(subject, bad=()), None, 9.0)
    assert (study["real"], study["spot"], study["defects"]) == (False, 9.0, 8)
    assert all(row["promise_breaks"] is None for row in study["rows"])  # nothing was promised


def test_a_watch_that_never_saw_an_accepted_part_warns_of_nothing(subject):
    import dataclasses

    study = robustness(dataclasses.replace(subject, threshold=-1.0), 0.05, 9.0)
    assert study["alarms_before"] == 8
    assert row(study, "noise")["promise_breaks"] == 0
    assert not row(study, "noise")["warned_in_time"]


def test_a_kept_promise_is_called_broken_at_most_once_in_twenty_times():
    from scipy.stats import binom

    for parts, promised in ((16, 0.05), (40, 0.05), (40, 0.01), (300, 0.001)):
        broken = [count for count in range(parts + 1) if breaks_promise(count, parts, promised)]
        assert 0 < binom.pmf(broken, parts, promised).sum() <= 0.05
        assert not breaks_promise(parts, parts, None)


def test_detection_that_only_wavers_is_called_broken_at_most_once_in_twenty_times():
    rng = np.random.default_rng(1)
    broken = lost = 0
    for _ in range(4000):
        chance = rng.random(40) ** 0.3  # each defect has its own chance of being found, the same before and after
        before, after = rng.random((2, 40)) < chance
        broken += loses_defects(before, after)
        lost += loses_defects(before, after & (rng.random(40) < 0.7))
    assert 0.01 < broken / 4000 <= 0.05
    assert lost / 4000 > 0.6  # and three in ten that go missing are noticed mostly
    assert not loses_defects(np.ones(40, bool), np.ones(40, bool))
