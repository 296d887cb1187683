import json

import pytest
from safetensors.torch import save_file

from edge_ad.cli.ablate import command as ablate
from edge_ad.cli.ablate import parse_seeds
from edge_ad.config import Config
from edge_ad.errors import ConfigError, DataError
from edge_ad.model.weights import find_weights
from edge_ad.pipeline.ablate import VARIANTS, summary, variant


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_changes_what_it_names(name):
    base = Config.named("paper")
    changed = variant(base, name)
    for section, values in VARIANTS[name].items():
        for key, value in values.items():
            assert getattr(getattr(changed, section), key) == value
    assert (changed == base) == (name in {"full", "separate-encoder", "head-on-product"})


def test_unknown_variants_and_seeds_are_named(tmp_path):
    with pytest.raises(ConfigError, match="no-luck"):
        variant(Config.named("paper"), "no-luck")
    with pytest.raises(ConfigError, match="x"):
        ablate(tmp_path, tmp_path / "out", seeds="0,x", variants="full")


def test_mean_and_deviation_by_hand():
    rows = [{"i_auroc": 0.9, "p_auroc": None, "aupro": 0.5, "f1_max": 1.0}]
    rows.append({**rows[0], "i_auroc": 1.0})
    got = summary(rows)
    assert got["i_auroc"]["mean"] == pytest.approx(0.95)
    assert got["i_auroc"]["deviation"] == pytest.approx(0.0707106781)
    assert got["p_auroc"] == {"mean": None, "deviation": None}
    assert summary(rows[:1])["aupro"] == {"mean": 0.5, "deviation": None}


def test_a_small_ablation_of_own_settings_writes_its_table_and_keeps_finished_runs(
    tmp_path, write_photos, tiny_config
):
    write_photos(tmp_path / "data" / "train" / "good", 6)
    write_photos(tmp_path / "data" / "test" / "good", 3, seed=1)
    write_photos(tmp_path / "data" / "test" / "dark", 3, seed=2)
    config = tiny_config.override("model", detail="")  # no file of weights holds a second network's
    config.to_toml(tmp_path / "tiny.toml")
    options = {"variants": "full", "seeds": "0", "steps": 2, "source": "procedural", "weights": "random"}
    written = []
    for _ in range(2):
        ablate(tmp_path / "data", tmp_path / "out", config=tmp_path / "tiny.toml", device="cpu", **options)
        written.append((tmp_path / "out" / "full-0" / "weights.safetensors").stat().st_mtime_ns)
    with pytest.raises(ConfigError, match="full-0 holds a finished run with other settings"):
        ablate(tmp_path / "data", tmp_path / "out", config=tmp_path / "tiny.toml", **{**options, "steps": 3})
    state, _ = find_weights(config.model.teacher, "random", 1)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match="full-0 holds a finished run of another teacher: RANDOM WEIGHTS"):
        ablate(
            tmp_path / "data", tmp_path / "out", config=tmp_path / "tiny.toml", device="cpu",
            **{**options, "weights": str(tmp_path / "other.safetensors")},
        )  # fmt: skip
    write_photos(tmp_path / "data" / "train" / "good", 6, seed=9)
    with pytest.raises(ConfigError, match="full-0 holds a finished run on other photos"):
        ablate(tmp_path / "data", tmp_path / "out", config=tmp_path / "tiny.toml", device="cpu", **options)
    written.append((tmp_path / "out" / "full-0" / "weights.safetensors").stat().st_mtime_ns)
    table = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert set(table["table"]) == {"full"}
    assert table["about"]["settings"]["model"] == config.to_dict()["model"]
    assert table["table"]["full"]["i_auroc"]["mean"] is not None
    assert written[0] == written[1] == written[2]


def test_seeds_count_once():
    assert parse_seeds("2,0,2") == [2, 0]


@pytest.mark.parametrize(
    ("kinds", "lacking"), [((), "test photos"), (("good",), "defective test"), (("dark",), "good test")]
)
def test_what_can_not_be_measured_is_not_trained(tmp_path, write_photos, tiny_config, kinds, lacking):
    write_photos(tmp_path / "data" / "train" / "good", 6)
    for kind in kinds:
        write_photos(tmp_path / "data" / "test" / kind, 3)
    tiny_config.to_toml(tmp_path / "tiny.toml")
    with pytest.raises(DataError, match=f"no {lacking}"):
        ablate(tmp_path / "data", tmp_path / "out", config=tmp_path / "tiny.toml", variants="full")
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_said_before_any_work(tmp_path, write_photos):
    (tmp_path / "taken").write_text("")
    for out in (tmp_path / "taken", tmp_path / "taken" / "runs"):
        with pytest.raises(DataError, match="taken is a file"):
            ablate(tmp_path, out, preset="edge")
