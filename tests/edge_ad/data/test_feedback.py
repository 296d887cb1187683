"""Pictures filed after a verdict: kept with what is known of them, over a training, and never changed unnoticed."""

import json

import pytest

from edge_ad.artifact import Artifact
from edge_ad.data.feedback import Known, add, entries, forget, inherit
from edge_ad.data.images import read_image, write_image
from edge_ad.errors import ArtifactError, DataError


@pytest.fixture
def photo(parts, tmp_path):
    path = tmp_path / "Kratzer links.jpg"
    write_image(path, parts[1][0])
    return path


def test_a_picture_is_kept_as_it_was_seen_with_what_is_known(small_artifact, photo):
    before = small_artifact.digest()
    known = Known(product="stripes", by="Ada", note="complaint 7", station={"frame": {"rotate": 90.0}})
    entry = add(small_artifact.path, "bad", photo, known)
    assert entry.name == "bad/Kratzer-links.png"
    (found,) = entries(small_artifact.path, "bad")
    assert (read_image(found.path) == read_image(photo)).all()
    assert (found.known.by, found.known.note, found.known.station) == ("Ada", "complaint 7", known.station)
    assert found.known.time.endswith("+00:00")
    found.check()
    assert Artifact.open(small_artifact.path).digest() == before  # what is learnt about it doesn't change it


def test_the_same_picture_twice_is_one_and_another_of_that_name_is_two(small_artifact, photo, parts):
    add(small_artifact.path, "bad", photo, Known())
    add(small_artifact.path, "bad", photo, Known(note="again"))
    assert [one.known.note for one in entries(small_artifact.path, "bad")] == ["again"]
    write_image(photo, parts[1][1])
    add(small_artifact.path, "bad", photo, Known())
    assert len(entries(small_artifact.path, "bad")) == 2


def test_a_picture_copied_in_by_hand_counts(small_artifact, parts):
    write_image(small_artifact.path / "bad" / "scratch" / "1.png", parts[1][0])
    (found,) = entries(small_artifact.path, "bad")
    assert found.name == "bad/scratch/1.png"
    assert found.known == Known()
    found.check()


def test_a_changed_picture_is_noticed(small_artifact, photo, parts):
    entry = add(small_artifact.path, "bad", photo, Known())
    write_image(entry.path, parts[0][0])
    with pytest.raises(DataError, match="was changed"):
        entries(small_artifact.path, "bad")[0].check()


@pytest.mark.parametrize("text", ["{", "[1]", json.dumps({"prodct": "a"}), json.dumps({"straightened": 3})])
def test_a_damaged_note_is_refused_by_name(small_artifact, photo, text):
    entry = add(small_artifact.path, "bad", photo, Known())
    entry.path.with_suffix(".json").write_text(text)
    with pytest.raises(DataError, match=r"Kratzer-links\.json"):
        entries(small_artifact.path, "bad")


def test_forget_names_what_there_is(small_artifact, photo):
    add(small_artifact.path, "good", photo, Known())
    with pytest.raises(DataError, match=r"has no bad/x\.png") as error:
        forget(small_artifact.path, "bad/x.png")
    assert "good/Kratzer-links.png" in error.value.hint
    forget(small_artifact.path, "good/Kratzer-links.png")
    assert entries(small_artifact.path, "good") == []
    assert list((small_artifact.path / "good").iterdir()) == []


def test_feedback_outlives_a_training_and_goes_to_another_artifact_once(small_artifact, photo, tmp_path):
    add(small_artifact.path, "bad", photo, Known(note="7"))
    files = {"model.onnx": small_artifact.file("model.onnx").read_bytes()}
    again = Artifact.create(small_artifact.path, small_artifact.manifest, files)
    assert [one.known.note for one in entries(again.path, "bad")] == ["7"]
    other = Artifact.create(tmp_path / "other", small_artifact.manifest, files)
    assert inherit(again.path, other.path) == 1
    assert inherit(again.path, other.path) == 0
    assert [one.known.note for one in entries(other.path, "bad")] == ["7"]


def test_only_an_artifact_takes_feedback_and_only_pictures(small_artifact, photo, tmp_path):
    with pytest.raises(ArtifactError):
        add(tmp_path / "nothing", "bad", photo, Known())
    photo.write_bytes(b"no picture")
    with pytest.raises(DataError, match="Kratzer"):
        add(small_artifact.path, "bad", photo, Known())
    assert entries(small_artifact.path, "bad") == []
