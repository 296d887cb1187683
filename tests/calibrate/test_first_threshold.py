from edge_ad.artifact import photo_key
from edge_ad.calibrate.first_threshold import without_training_photos
from edge_ad.data.samples import Sample


def test_copies_of_trained_photos_do_not_set_the_first_threshold(write_photos, tmp_path, caplog):
    paths = write_photos(tmp_path, 3)
    paths[1].write_bytes(paths[0].read_bytes())
    _, second, third = (Sample(path, "train", 0, "good", None, "part") for path in paths)
    trained = frozenset({photo_key(paths[0])})
    assert without_training_photos([second, third], trained) == [third]
    assert "1 of 2 held-out photos are copies" in caplog.text
    assert without_training_photos([second], trained) == [second]  # better than none, and said
    assert "worth nothing" in caplog.text
