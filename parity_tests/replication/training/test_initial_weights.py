"""Both trainers start from one distribution, and a start that differs is named."""

import json

import pytest

SWIN = "coco_swin_tiny"


@pytest.fixture
def biases_at_zero(monkeypatch):
    import tf_impl.layers

    monkeypatch.setattr(tf_impl.layers, "torch_default_bias", lambda fan_in: "zeros")


def test_initial_weights_are_of_one_distribution(parity, tmp_path):
    status, out, _ = parity("initial-weights", "--config", SWIN, "--out", tmp_path, "--json")
    result = json.loads(out)
    assert status == 0, [one["shown"] for one in result["configurations"]]
    (claim,) = result["claims"]
    assert claim["verdict"] == "holds"
    assert claim["cases"] > 300
    status, out, _ = parity("verify", tmp_path)
    assert status == 0, out


def test_initial_weights_name_biases_that_start_at_zero(parity, biases_at_zero):
    status, out, _ = parity("initial-weights", "--config", "tiny")
    assert status == 1
    assert "predictor.class_embed.bias: the port starts it at 0, the reference draws it" in out


def test_initial_weights_need_two_seeds(parity):
    status, _, err = parity("initial-weights", "--seeds", "1")
    assert status == 2
    assert "at least 2" in err
