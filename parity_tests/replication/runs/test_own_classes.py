"""A training of own classes starts from a checkpoint of others: all but the head's classes."""

import json
from pathlib import Path

import numpy as np
import pytest

from maskformer.model import own_config, zoo
from maskformer.model.zoo import OwnClass
from maskformer.runs.run_settings import default_settings
from parity.errors import InputError
from parity_tests.weight_conversion.samples import as_torch, write_torch
from replication.runs.trainers import _initial
from replication.sides.torch_side import initial_state
from replication.sides.weights import load_weights
from weight_conversion.plan import class_tensors

CLASSES = tuple(OwnClass(i, f"part {i}", i != 2) for i in range(3))


@pytest.fixture(scope="module")
def published() -> dict[str, np.ndarray]:
    return dict(load_weights("seeded:5", zoo.model_config("tiny")).state)


def settings(folder: Path, initial: Path):
    path = folder / "own_config.json"
    path.write_text(json.dumps(own_config.own_config("tiny", CLASSES)))
    return default_settings(str(path.resolve()), str(folder), initial=str(initial), seed=3)


def test_all_but_the_classes_comes_from_the_checkpoint(published, tmp_path, capsys) -> None:
    asked = settings(tmp_path, write_torch(tmp_path / "a.pth", {"model": as_torch(published)}))
    config = asked.entry.model
    renewed = class_tensors(config)
    assert renewed == {
        "sem_seg_head.predictor.class_embed.weight",
        "sem_seg_head.predictor.class_embed.bias",
        "criterion.empty_weight",
    }
    state = _initial(asked)
    fresh = initial_state(config, 3)
    assert set(state) == set(fresh)
    for name, value in state.items():
        np.testing.assert_array_equal(value, (fresh if name in renewed else published)[name], name)
    said = capsys.readouterr().err
    for name in renewed:
        assert f"{name} (" in said
        assert "of another number of classes" in said


def test_a_head_of_the_same_classes_is_kept(published, tmp_path, capsys) -> None:
    own = settings(tmp_path, tmp_path / "absent")
    mine = dict(load_weights("seeded:8", own.entry.model).state)
    state = _initial(settings(tmp_path, write_torch(tmp_path / "b.pth", as_torch(mine))))
    for name, value in state.items():
        np.testing.assert_array_equal(value, mine[name], name)
    assert capsys.readouterr().err == ""


def test_a_backbone_alone_is_taken(published, tmp_path) -> None:
    backbone = {name: value for name, value in published.items() if name.startswith("backbone.")}
    asked = settings(tmp_path, write_torch(tmp_path / "c.pth", as_torch(backbone)))
    state, fresh = _initial(asked), initial_state(asked.entry.model, 3)
    for name, value in state.items():
        np.testing.assert_array_equal(value, backbone.get(name, fresh[name]), name)


def test_another_architecture_is_refused(published, tmp_path) -> None:
    other = {n: v for n, v in published.items() if "decoder.layers.1" not in n}
    asked = settings(tmp_path, write_torch(tmp_path / "d.pth", as_torch(other)))
    with pytest.raises(InputError, match="does not fit"):
        _initial(asked)
