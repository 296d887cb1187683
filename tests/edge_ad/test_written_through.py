"""What isn't a plain file is written through, and a link stays a link."""

import os
import threading

import pytest

from edge_ad.artifact import check_target, write_atomically
from edge_ad.errors import ArtifactError


def test_a_pipes_reader_gets_what_is_written(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    check_target(pipe)
    write_atomically(pipe, b"figures")
    reader.join(20)
    assert got == [b"figures"]
    assert pipe.is_fifo()


def test_a_device_stays_a_device(tmp_path):
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | 0o020000, os.makedev(1, 3))
        device.write_bytes(b"")
    except OSError:
        pytest.skip("this user may make or use no device")
    check_target(device)
    write_atomically(device, b"figures")
    assert device.is_char_device()
    check_target(type(device)("/dev/null"))
    write_atomically(type(device)("/dev/null"), device)
    assert type(device)("/dev/null").is_char_device()


def test_a_link_stays_and_its_file_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "link.json"
    link.symlink_to("there/figures.json")
    for text in (b"first", b"second"):
        check_target(link)
        write_atomically(link, text)
        assert link.is_symlink()
        assert (tmp_path / "there/figures.json").read_bytes() == text
    (tmp_path / "folder").symlink_to(tmp_path / "there")
    with pytest.raises(ArtifactError, match="is a folder"):
        check_target(tmp_path / "folder")
