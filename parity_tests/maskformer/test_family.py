"""What a second model brings is one value; nothing else has to know of it."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from maskformer import family
from maskformer.data.targets import synthetic_targets
from maskformer.family import MASKFORMER, ModelFamily, family_of
from maskformer.model import zoo
from weight_conversion.spec import expected


@dataclasses.dataclass(frozen=True)
class Other:
    """The configuration of a made-up model."""

    name: str = "other"


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> ModelFamily:
    """A family beside ours, with a head of another name."""
    state = dataclasses.replace(MASKFORMER.state, head="decoder")
    found = dataclasses.replace(
        MASKFORMER, name="Other", configuration=Other, entries={}, state=state
    )
    monkeypatch.setattr(family, "FAMILIES", (MASKFORMER, found))
    return found


def test_a_configuration_leads_to_its_family(second: ModelFamily) -> None:
    assert family_of(zoo.model_config("tiny")) is MASKFORMER
    assert family_of(Other()) is second


def test_a_configuration_of_no_family_is_an_error() -> None:
    with pytest.raises(LookupError, match="Other"):
        family_of(Other())


@pytest.mark.parametrize("name", sorted(zoo.ENTRIES))
def test_only_a_head_with_queries_is_matched(name: str) -> None:
    config = zoo.model_config(name)
    matching = MASKFORMER.matching(config)
    assert (matching is None) == config.is_per_pixel
    targets = MASKFORMER.targets(config, np.array([[40, 48]]), (64, 64))
    assert isinstance(targets, np.ndarray) == (matching is None)
    if matching is not None:
        assert matching.queries == config.predictor.num_queries
        drawn = synthetic_targets(config, np.array([[40, 48]]), (64, 64))
        np.testing.assert_array_equal(targets[0]["masks"], drawn[0]["masks"])


def test_the_last_layer_is_apart_from_the_earlier_ones() -> None:
    names = MASKFORMER.outputs
    earlier = {names.classes: 3, names.masks: 4}
    outputs = {names.classes: 1, names.masks: 2, names.earlier: [earlier]}
    assert names.last(outputs) == {names.classes: 1, names.masks: 2}
    assert names.layers(outputs) == [outputs, earlier]
    assert names.layers(names.last(outputs)) == [names.last(outputs)]


def test_the_head_of_another_configuration_is_not_taken() -> None:
    config = zoo.model_config("tiny")
    shapes = {name: spec.shape for name, spec in expected(config).items()}
    assert MASKFORMER.state.is_headed(config, shapes.get) is True
    wider = config.replace(num_classes=config.num_classes + 1)
    assert MASKFORMER.state.is_headed(wider, shapes.get) is False
    backbone = {name: shape for name, shape in shapes.items() if name.startswith("backbone.")}
    assert MASKFORMER.state.is_headed(config, backbone.get) is None


def test_a_family_needs_numpy_alone() -> None:
    program = (
        "import sys\n"
        "import maskformer.family\n"
        "found = {'PIL', 'scipy', 'yaml', 'torch', 'tensorflow', 'jax'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-500:]
