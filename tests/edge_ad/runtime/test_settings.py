import dataclasses

import pytest

from edge_ad.config import tomllib
from edge_ad.errors import ConfigError
from edge_ad.runtime import settings
from edge_ad.runtime.settings import RunSettings, example_toml, read_settings, settings_from


def test_the_example_is_the_defaults_and_explains_every_field():
    text = example_toml()
    assert settings_from(tomllib.loads(text)) == RunSettings()
    for name, thing in vars(settings).items():
        if name.endswith("Settings") and dataclasses.is_dataclass(thing):
            for field in dataclasses.fields(thing):
                assert len(field.metadata["help"]) > 8, f"{name}.{field.name} is not explained"
                assert field.metadata["help"] in text


def test_a_line_with_two_cameras(tmp_path):
    path = tmp_path / "line.toml"
    path.write_text(
        """
        artifact = "bottle"
        [[station]]
        name = "top"
        source.address = "rtsp://10.0.0.5/stream"
        source.reconnect_s = [1, 20]
        frame.roi = [10, 20, 300, 200]
        [[station.policy.regions]]
        name = "label"
        box = [0, 0, 50, 50]
        ignore = true
        [[station]]
        name = "side"
        source.address = "1"
        [store]
        days = 7
        [sink.mqtt]
        host = "10.0.0.2"
        """
    )
    read = read_settings(path)
    top, side = read.station
    assert top.frame.roi == (10, 20, 300, 200)
    assert top.policy.regions[0].ignore
    assert top.source.reconnect_s == (1.0, 20.0)
    assert side.source.address == "1"
    assert read.store.days == 7.0
    assert read.sink == {"mqtt": {"host": "10.0.0.2"}}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"stattion": []}, "unknown setting .stattion."),
        ({"station": []}, "no \\[\\[station\\]\\]"),
        ({"station": [{"name": "a"}, {"name": "a"}]}, "share a name"),
        ({"station": [{"source": {"queue": 0}}]}, "source.queue"),
        ({"station": [{"source": {"reconnect_s": [5.0, 1.0]}}]}, "reconnect_s"),
        ({"station": [{"source": {"timeout_s": 0}}]}, "timeout_s"),
        ({"station": [{"frame": {"corners": [[0, 0]]}}]}, "corners"),
        ({"station": [{"frame": {"overlap": 0.95}}]}, "overlap"),
        ({"station": [{"policy": {"frames": 2, "votes": 3}}]}, "votes"),
        ({"station": [{"policy": {"unsure": -1}}]}, "unsure"),
        ({"station": [{"trigger": {"kind": "telepathy"}}]}, "telepathy"),
        ({"store": {"days": "a week"}}, "store.days"),
    ],
)
def test_wrong_settings_are_named(table, words):
    with pytest.raises(ConfigError, match=words):
        settings_from(table)
