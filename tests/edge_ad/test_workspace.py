"""The working folder's memory: which detector is meant, where a new one goes, which photos it is trained on."""

from __future__ import annotations

import datetime
import shutil

import pytest

from edge_ad.artifact import Artifact
from edge_ad.errors import ArtifactError, ConfigError, DataError
from edge_ad.workspace import FILE, Place, Workspace, ago, default_out, find_training_folder, place_for


@pytest.fixture
def here(tmp_path, monkeypatch, small_artifact):
    """An empty working folder, and a function that puts an artifact into it."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def put(name):
        return shutil.copytree(small_artifact.path, folder / name)

    return put


def test_it_remembers_what_was_trained_last_and_says_so_in_a_file_that_one_can_read(here):
    here("detectors/bottle")
    Workspace().remember(Workspace().folder / "detectors/bottle", None)
    assert 'current = "detectors/bottle"' in (Workspace().folder / FILE).read_text()
    assert Workspace().find() == Workspace().folder / "detectors/bottle"


def test_a_candidate_is_meant_by_all_but_the_line(here):
    for name in ("bottle", "bottle-2"):
        here(f"detectors/{name}")
    folder = Workspace().folder
    Workspace().remember(folder / "detectors/bottle-2", folder / "detectors/bottle")
    assert Workspace().find().name == "bottle-2"
    assert Workspace().find(on_line=True).name == "bottle"
    Workspace().use(folder / "detectors/bottle")
    assert Workspace().find().name == "bottle"
    assert Workspace().candidate is None


def test_names_mean_folders_in_detectors_and_paths_themselves(here):
    here("detectors/bottle")
    here("grid")
    assert Workspace().find("bottle").as_posix() == "detectors/bottle"
    assert Workspace().find("grid").as_posix() == "grid"
    assert [path.as_posix() for path in Workspace().artifacts()] == ["detectors/bottle"]


def test_nothing_remembered_says_what_to_type(here):
    with pytest.raises(ArtifactError, match="remembers none") as raised:
        Workspace().find()
    assert "edgead train" in raised.value.hint
    here("detectors/bottle")
    with pytest.raises(ArtifactError, match="remembers none") as raised:
        Workspace().find()
    assert "edgead use bottle" in raised.value.hint


@pytest.mark.parametrize("text", ["current = 3", 'curent = "a"', "current = ", "\x00"])
def test_a_damaged_file_is_refused_by_name(here, text):
    (Workspace().folder / FILE).write_text(text)
    with pytest.raises(ConfigError, match=FILE):
        Workspace()


def test_an_artifact_elsewhere_is_not_this_folders(here, tmp_path, small_artifact):
    Workspace().remember(small_artifact.path, None)
    assert not (Workspace().folder / FILE).exists()
    Workspace().use(small_artifact.path)  # asked for, it is
    assert Workspace().find() == small_artifact.path


def test_a_remembered_detector_that_is_gone_is_said(here):
    Workspace().use(here("detectors/bottle"))
    shutil.rmtree("detectors/bottle")
    with pytest.raises(ArtifactError, match="not there"):
        Workspace().find()


def test_a_new_artifact_never_takes_the_place_of_one(here, tmp_path):
    out = Workspace().folder / "detectors/bottle"
    assert place_for(out) == Place(out)
    here("detectors/bottle")
    assert place_for(out) == Place(out.with_name("bottle-2"), out)
    assert place_for(out, replace_old=True) == Place(out)
    here("detectors/bottle-2")
    assert place_for(out).path.name == "bottle-3"
    (out.parent / "bottle-2.training").mkdir()
    (out.parent / "bottle-2.training/checkpoint.pt").touch()
    assert place_for(out, resume=True).path.name == "bottle-2"
    assert place_for(out).path.name == "bottle-3"


def test_an_artifact_is_called_after_the_part(tmp_path):
    assert default_out([tmp_path / "bottle/train/good"]).as_posix() == "detectors/bottle"
    assert default_out([tmp_path / "a b", tmp_path / "grid"]).as_posix() == "detectors/a_b+grid"
    assert default_out([tmp_path / str(n) for n in range(5)]).as_posix() == "detectors/0+4"


def test_ages_are_said_in_words():
    def before(**span):
        return (datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(**span)).isoformat()

    said = [ago(before(**span)) for span in ({"seconds": 5}, {"seconds": 61}, {"hours": 5}, {"days": 3})]
    assert said == ["just now", "1 minute ago", "5 hours ago", "3 days ago"]
    assert ago("") == "at an unknown time"


def test_train_takes_this_folder_or_the_only_one_in_it(here, write_photos):
    folder = Workspace().folder.resolve()
    with pytest.raises(DataError, match="no photos here"):
        find_training_folder()
    write_photos(folder / "photos/monday", 3)
    (folder / "papers").mkdir()
    (folder / "papers/offer.pdf").touch()
    here("detectors/photos")
    (folder / "detectors/photos/training.png").touch()
    (folder / "edgead-run").mkdir()
    (folder / "edgead-run/reject.png").touch()
    assert find_training_folder().as_posix() == "photos"
    write_photos(folder / "grid/train/good", 3)
    with pytest.raises(DataError, match=r"grid \(MVTec AD's layout\), photos \(3 photos\)"):
        find_training_folder()
    assert find_training_folder("grid").as_posix() == "grid"
    assert find_training_folder("photos/monday").as_posix() == "photos/monday"


def test_outputs_are_no_photos(tmp_path, write_photos, small_artifact):
    from edge_ad.data.samples import scan

    write_photos(tmp_path / "photos", 4)
    shutil.copytree(small_artifact.path, tmp_path / "photos/detectors/part")
    write_photos(tmp_path / "photos/detectors/part/good", 2)
    write_photos(tmp_path / "photos/edgead-run/images", 5)
    (tmp_path / "photos/edgead-run/verdicts.sqlite").touch()
    assert len(scan(tmp_path / "photos").train) == 4
    assert Artifact.open(tmp_path / "photos/detectors/part")
