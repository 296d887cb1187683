"""The map of smallest marks, on a detector that finds so many dark pixels."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("scipy")

from edge_ad.data.images import write_image
from edge_ad.qualify.limits import CONTRASTS, MAP_PHOTOS, contrasts_for, map_pictures, probe_map
from edge_ad.qualify.subject import Subject


class DarkPixels:
    """A predictor whose score is the number of pixels darker than 180; on photo 3 of the fixture, one of four counts.

    seen: corners of the frames, which tell the photos apart.
    """

    def __init__(self):
        self.seen = []

    def predict_batch(self, frames):
        self.seen += [int(frame[0, 0, 0]) for frame in frames]
        return [SimpleNamespace(image_score=self._score(frame)) for frame in frames]

    def _score(self, frame):
        return float((frame[..., 0] < 180).sum()) / (4 if frame[0, 0, 0] == 203 else 1)


@pytest.fixture
def subject(tmp_path):
    for i in range(7):
        write_image(tmp_path / f"{i}.png", np.full((96, 96, 3), 200 + i, np.uint8))
    return Subject(DarkPixels(), 30.0, sorted(tmp_path.iterdir()))


def test_the_smallest_spot_is_one_that_is_found_on_every_photo_shown(subject):
    found = probe_map(subject, cells=3)
    assert len(found["places"]) == 9
    ladder = found["ladder"]
    easy, hard = (next(size for size in ladder if math.pi * size**2 / 4 > area) for area in (30, 4 * 30))
    assert easy < hard
    # 7 photos, at each place 3 of them, two apart
    hard_places = {n for n in range(9) if 3 in {(n + i * 2) % 7 for i in range(MAP_PHOTOS)}}
    assert [place["smallest"] for place in found["places"]] == [hard if n in hard_places else easy for n in range(9)]
    assert {place["photos"] for place in found["places"]} == {3}
    assert set(subject.predictor.seen) == set(range(200, 207))
    assert len(subject.predictor.seen) <= 7 + map_pictures(3)


def test_where_nothing_is_found_the_map_says_so(subject):
    import dataclasses

    blind = dataclasses.replace(subject, threshold=1e6)
    assert {place["smallest"] for place in probe_map(blind, cells=2)["places"]} == {None}


def test_faint_defects_get_marks_as_faint():
    def real(*medians):
        return {
            "kinds": {str(i): {"parts": 3} | ({"median_contrast": m} if m else {}) for i, m in enumerate(medians)}
        }

    assert contrasts_for(None) == contrasts_for(real(None)) == contrasts_for(real(40.0, 18.0)) == CONTRASTS
    assert contrasts_for(real(40.0, 11.6)) == (12, *CONTRASTS)
    assert contrasts_for(real(0.0, 1.0)) == (4, *CONTRASTS)
