"""A fresh detector's weights: of two encoders, one record."""

import pytest

from edge_ad.errors import DataError
from edge_ad.training import new_detector as module
from edge_ad.training.new_detector import encoder_weights, new_detector


def test_random_weights_are_random_for_both_encoders_and_said(tiny_config):
    detector, record = new_detector(tiny_config, (72, 96), "random")
    assert detector.detail is not None
    assert record.description.count("RANDOM") == 2
    again, _ = new_detector(tiny_config, (72, 96), "random")
    assert all((value == again.state_dict()[name]).all() for name, value in detector.state_dict().items())


def test_without_detail_there_is_one_set_of_weights(tiny_config):
    config = tiny_config.override("model", detail="")
    detector, record = new_detector(config, (72, 96), "random")
    assert detector.detail is None
    assert ";" not in record.description


def test_who_has_no_weights_for_the_detail_is_told_how_to_do_without(tiny_config, monkeypatch):
    def find(model, wanted=None, seed=0):
        if model == tiny_config.model.detail:
            raise DataError(f"no pretrained weights for '{model}'", "")
        return {}, module.WeightsRecord(model, "file", "a file", "0")

    monkeypatch.setattr(module, "find_weights", find)
    with pytest.raises(DataError, match="test_efficientnet") as error:
        encoder_weights(tiny_config.model, "teacher.safetensors", 0)
    assert "detail = ''" in error.value.hint
