"""A checkpoint's own configuration is found where none is named."""

import pytest

from maskformer.model import zoo
from parity.errors import InputError
from parity_tests.weight_conversion.samples import write_safetensors
from replication.sides.fitting import entry_that_fits
from replication.sides.weights import load_weights


def test_the_config_of_a_checkpoint_is_found(tmp_path):
    state = load_weights("seeded:0", zoo.model_config("scenes_tiny")).state
    path = write_safetensors(tmp_path / "any.safetensors", dict(state))
    assert entry_that_fits(path).name == "scenes_tiny"


def test_a_checkpoint_that_fits_none_is_one_clear_error(tmp_path):
    state = dict(load_weights("seeded:0", zoo.model_config("scenes_tiny")).state)
    state.pop("backbone.stem.conv1.weight")
    path = write_safetensors(tmp_path / "any.safetensors", state)
    with pytest.raises(InputError, match="no config of the zoo fits"):
        entry_that_fits(path)


def test_an_audit_takes_the_config_that_fits_its_weights(tmp_path, parity, monkeypatch):
    asked = []

    def audit(request, steps):
        asked.append(request.config.name)
        raise InputError("nothing is audited")

    monkeypatch.setattr("replication.forward.run.audit", audit)
    state = load_weights("seeded:0", zoo.model_config("scenes_tiny")).state
    path = write_safetensors(tmp_path / "any.safetensors", dict(state))
    parity("audit", "--weights", path)
    parity("audit", "--weights", path, "--config", "tiny")
    parity("audit")
    assert asked == ["scenes_tiny", "tiny", "coco_r50"]
