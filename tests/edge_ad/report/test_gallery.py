"""Which photos a gallery keeps."""

from __future__ import annotations


def test_a_fixed_number_is_kept_the_extremes_first(measured):
    _, gallery = measured()
    assert {len(kept) for kept in gallery.kept.values()} == {6}
    assert [one.image_score for one in gallery.row("bottle", "missed")] == [0.15, 0.3, 0.4, 0.45, 0.5, 0.55]
    assert [one.image_score for one in gallery.row("bottle", "alarming")][:3] == [0.35, 0.19, 0.18]
    assert [one.image_score for one in gallery.row("bottle", "quiet")][:2] == [0, 0.01]
    assert [one.image_score for one in gallery.row("bottle", "found")][:2] == [0.8, 0.75]
    assert gallery.row("bottle", "missed")[0].mask.any()
