"""An artifact of several products: the threshold of the one that is meant, and no guessing."""

import numpy as np
import pytest

import edge_ad
from edge_ad.cli import main
from edge_ad.data.images import read_image
from edge_ad.errors import ArtifactError, ConfigError
from edge_ad.runtime.line.inspector import Inspector
from edge_ad.runtime.products import calibration_for
from edge_ad.runtime.sinks.store import Store


@pytest.fixture
def several(line_artifact, calibration):
    """stripes and dots have thresholds of their own; knobs had too few good parts."""
    own = {"stripes": {"image_threshold": 1e-6, "pixel_threshold": 2e-6, "normals": 30}}
    own["dots"] = {"image_threshold": 1e6, "pixel_threshold": 2e6, "normals": 30}
    manifest = line_artifact.manifest
    line_artifact.update(classes=("stripes", "dots", "knobs"), calibration=manifest.calibration | {"per_class": own})
    return line_artifact


def test_a_named_product_has_its_thresholds_and_others_the_common_ones(several, calibration, caplog):
    assert calibration_for(several.manifest, "stripes")["image_threshold"] == 1e-6
    assert calibration_for(several.manifest, "dots")["pixel_threshold"] == 2e6
    assert calibration_for(several.manifest, "all")["image_threshold"] == calibration["image_threshold"]
    assert not caplog.records
    assert calibration_for(several.manifest, "knobs")["image_threshold"] == calibration["image_threshold"]
    assert "knobs has no threshold of its own" in caplog.text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "high"])
@pytest.mark.parametrize("name", ["image_threshold", "pixel_threshold"])
def test_a_threshold_that_no_score_passes_is_refused(several, name, value):
    calibration = several.manifest.calibration
    several.update(calibration=calibration | {name: value})
    with pytest.raises(ArtifactError, match=name):
        edge_ad.load(several.path, product="all")
    own = calibration["per_class"] | {"dots": {name: value}}
    several.update(calibration=calibration | {"per_class": own})
    with pytest.raises(ArtifactError, match=name):
        edge_ad.load(several.path, product="dots")


def test_an_open_choice_and_an_unknown_name_are_errors(several, run_settings, part_folder):
    with pytest.raises(ConfigError, match="dots, knobs, stripes") as found:
        edge_ad.load(several.path)
    assert "--product dots" in found.value.hint
    with pytest.raises(ConfigError, match="no product 'bolts'"):
        edge_ad.load(several.path, product="bolts")
    with pytest.raises(ConfigError, match="threshold of its own"):
        Inspector(run_settings({"source": {"address": str(part_folder)}}))


def test_the_predictor_decides_by_the_products_threshold(several, product):
    for name, bad in (("stripes", True), ("dots", False)):
        with edge_ad.load(several.path, product=name, threads=1) as detector:
            assert detector.predict(product[0](0)).is_anomalous is bad


def test_two_stations_see_two_products_with_one_engine(several, run_settings, part_folder, stored):
    stations = [
        {"name": name, "product": name, "source": {"address": str(part_folder)}} for name in ("stripes", "dots")
    ]
    inspector = Inspector(run_settings(*stations))
    inspector.run()
    assert len(inspector.engines) == 1
    decisions = {name: {v.decision for v in stored() if v.source == name} for name in ("stripes", "dots")}
    assert decisions == {"stripes": {"NG"}, "dots": {"OK"}}


def test_each_station_draws_heat_on_its_own_scale(several, part_folder, product, tmp_path):
    quantiles = np.linspace(0.0, 1e-6, 101).tolist()
    own = {
        name: {**one, "score_quantiles": quantiles} for name, one in several.manifest.calibration["per_class"].items()
    }
    several.update(calibration=several.manifest.calibration | {"per_class": own})
    tables = [
        f'[[station]]\nname = "{name}"\nproduct = "{name}"\nsource.address = "{part_folder}"\n'
        for name in ("stripes", "dots")
    ]
    head = f'artifact = "{several.path}"\nout = "{tmp_path / "out"}"\nimages.accepts_every = 1\n'
    (tmp_path / "line.toml").write_text(head + "".join(tables))
    with pytest.raises(SystemExit) as stop:
        main(["run", "--settings", str(tmp_path / "line.toml"), "--headless"])
    assert stop.value.code == 0
    with Store(tmp_path / "out" / "verdicts.sqlite") as store:
        verdicts = [row.verdict for row in store.recent(99)]

    def heat(name):
        verdict = next(v for v in verdicts if v.source == name and v.frame == 0)
        picture, overlay = (
            read_image(next((tmp_path / "out").rglob(verdict.id + end))) for end in (".jpg", ".overlay.jpg")
        )
        lower = slice(picture.shape[0] // 2, None)  # below the banner
        return np.abs(picture[lower].astype(int) - overlay[lower]).mean()

    assert heat("stripes") > 20  # everything is far above its threshold
    assert heat("dots") < 5  # and far below this one's


def test_a_new_version_without_the_stations_product_is_refused(several, run_settings, part_folder, caplog):
    inspector = Inspector(run_settings({"product": "stripes", "source": {"address": str(part_folder)}}))
    (engine,) = inspector.engines.values()
    before = engine.loaded
    several.update(classes=("dots", "knobs"), calibration=None)
    assert not engine.reload_if_changed()
    assert engine.loaded is before
    assert "no product 'stripes'" in caplog.text
    inspector._close()


def test_one_product_needs_no_name(line_artifact, calibration):
    assert calibration_for(line_artifact.manifest)["image_threshold"] == calibration["image_threshold"]
    line_artifact.update(calibration=None)
    assert calibration_for(line_artifact.manifest) == {}
