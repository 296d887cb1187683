import dataclasses
import importlib
import typing

import pytest

from edge_ad.config import read_section, tomllib
from edge_ad.errors import ConfigError
from edge_ad.runtime import settings
from edge_ad.runtime.line.example import AROUND, example_toml
from edge_ad.runtime.line.line import PLANT
from edge_ad.runtime.settings import RunSettings, read_settings, settings_from


def test_the_example_is_the_defaults_and_explains_every_field():
    text = example_toml()
    assert settings_from(tomllib.loads(text)) == RunSettings()
    for name, thing in vars(settings).items():
        if name.endswith("Settings") and dataclasses.is_dataclass(thing):
            for field, hint in typing.get_type_hints(thing, include_extras=True).items():
                (explanation,) = hint.__metadata__
                assert len(explanation) > 8, f"{name}.{field} is not explained"
                assert explanation in text


def test_the_tables_that_are_off_are_explained_too():
    """Uncommented, each is read by its module, with the very defaults."""
    text = example_toml()
    for name in [*AROUND, *(f"sink.{sink}" for sink in PLANT)]:
        block = text.partition(f"\n# [{name}]  # ")[2].partition("\n\n")[0].splitlines()[1:]
        assert block, name
        assert all(len(line.rpartition("  # ")[2]) > 4 for line in block), name
        kind = AROUND.get(name) or getattr(
            importlib.import_module(f"edge_ad.runtime.sinks.{PLANT[name[5:]][0]}"), PLANT[name[5:]][1]
        )
        table = tomllib.loads("\n".join(line.removeprefix("# ") for line in block))
        defaults = {field.name: field.default for field in dataclasses.fields(kind)}
        assert list(table) == [field for field, value in defaults.items() if value is not None]
        needed = {
            "sink.modbus_client": {"host": "plc"},
            "sink.gpio": {"line": "18"},
            "sink.webhook": {"url": "http://h/"},
        }
        mine = needed.get(name, {})
        assert read_section(kind, table | mine, name) == read_section(kind, mine, name)


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
        ({"station": {"name": "a"}}, "one table"),
        ({"station": [{"frame": {"corners": [[0, 0]] * 4}}]}, "corners"),
        ({"station": [{"frame": {"size": [9, 9]}}]}, "without frame.corners"),
        ({"station": [{"frame": {"tile": [0, 64]}}]}, "frame.tile"),
        ({"station": [{"frame": {"rotate": float("nan")}}]}, "rotate"),
        ({"station": [{"policy": {"threshold": float("nan")}}]}, "threshold"),
        ({"station": [{"presence": {"share": 0}}]}, "presence.share"),
        ({"station": [{"trigger": {"port": 99999}}]}, "trigger.port"),
        ({"station": [{"trigger": {"settle": 0}}]}, "trigger.settle"),
        ({"engine": {"threads": 0}}, "engine.threads"),
        ({"store": {"days": -1}}, "store.days"),
        ({"images": {"days": -1}}, "images.days"),
        ({"video": {"height": 0}}, "video.height"),
        ({"video": {"fps": 0}}, "video.fps"),
    ],
)
def test_wrong_settings_are_named(table, words):
    with pytest.raises(ConfigError, match=words):
        settings_from(table)


@pytest.mark.parametrize("turn", [1, -1])
def test_the_part_may_be_seen_in_a_mirror(turn):
    corners = [[0, 0], [9, 1], [9, 9], [0, 9]][::turn]
    assert len(settings_from({"station": [{"frame": {"corners": corners}}]}).station[0].frame.corners) == 4


@pytest.mark.parametrize("name", [*(f"sink.{sink}" for sink in PLANT), "page", "health"])
def test_a_port_that_is_none_is_refused_at_the_start(name):
    kind = AROUND.get(name) or getattr(
        importlib.import_module(f"edge_ad.runtime.sinks.{PLANT[name[5:]][0]}"), PLANT[name[5:]][1]
    )
    if "port" in {field.name for field in dataclasses.fields(kind)}:
        with pytest.raises(ConfigError, match="port = 70000"):
            read_section(kind, {"port": 70000, **({"host": "plc"} if "client" in name else {})}, name)
