"""Clean audits in odd circumstances are of many kinds, and an alarm is told from what is open."""

import numpy as np
import pytest

from maskformer.model import zoo
from maskformer.model.config import SwinConfig
from parity.errors import InputError
from replication.faults import clean
from replication.forward.run import PIXELS, extreme_image
from replication.sides.weights import load_weights, scaled_by_layer
from reports.chapters.clean import CleanOutcome, recheck_clean_audits

EXECUTIONS = ("eager", "graph", "xla")


def test_three_hundred_audits_are_of_all_configurations_thirty_of_them_with_training():
    cases = clean.odd_cases(300, EXECUTIONS, 0)
    assert len(set(cases)) == 300
    trained = [one for one in cases if one.train]
    assert len(trained) == 30
    for some in (cases, trained):
        assert {one.config for one in some} == set(clean.ODD)
    assert {one.pixels for one in cases} == {"drawn", *PIXELS}
    assert {one.weights for one in cases} == {"usual", "scaled"}
    assert {one.size for one in cases} == set(clean.ODD_SIZES)
    assert {one.execution for one in trained} == set(EXECUTIONS)


@pytest.mark.parametrize("name", clean.ODD)
def test_a_narrow_configuration_keeps_what_the_published_one_has(name):
    own, model = zoo.model_config(name), clean.narrow(zoo.model_config(name))
    assert type(model.backbone) is type(own.backbone)
    assert (model.head, model.pixel_decoder.name) == (own.head, own.pixel_decoder.name)
    assert model.num_classes == own.num_classes
    if isinstance(model.backbone, SwinConfig):
        assert min(model.backbone.depths) >= 2  # the second block of a stage is shifted
    else:
        assert model.backbone.stem == own.backbone.stem
    if own.is_per_pixel:
        assert model.predictor.num_queries == own.predictor.num_queries


def test_each_layer_has_a_factor_of_its_own_between_a_tenth_and_ten():
    config = clean.narrow(zoo.model_config("tiny"))
    usual, scaled = (load_weights(f"seeded:3{how}", config).state for how in ("", ",scaled"))
    factors = {}
    for key, array in usual.items():
        if array.dtype.kind != "f" or not array.any() or "running_" in key:
            continue
        ratios = scaled[key][array != 0] / array[array != 0]
        if np.allclose(ratios, 1.0):
            continue  # a constant of the model
        assert ratios.max() - ratios.min() < 1e-5 * ratios.max(), key
        factors.setdefault(key.rpartition(".")[0], set()).add(round(float(ratios.mean()), 4))
    assert all(len(one) == 1 for one in factors.values())
    found = np.array([next(iter(one)) for one in factors.values()])
    assert 0.1 <= found.min() < 0.2
    assert 5 < found.max() <= 10
    assert len(set(found)) > 0.9 * len(found)
    again = scaled_by_layer({"a.weight": np.ones(2), "a.running_var": np.ones(2)}, 3)
    assert (again["a.running_var"] == 1).all()


def test_an_unknown_kind_of_seeded_weights_is_refused():
    with pytest.raises(InputError, match="seeded:3,larger' is unknown"):
        load_weights("seeded:3,larger", zoo.model_config("tiny"))


@pytest.mark.parametrize(("kind", "levels"), [("black", {0}), ("white", {255})])
def test_extreme_images_have_one_level(kind, levels):
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    assert set(np.unique(extreme_image(image, kind))) == levels
    assert set(np.unique(extreme_image(image, "two levels"))) == {0, 255}
    assert (extreme_image(image, "one bright") > 0).sum() == 3
    assert extreme_image(image, "drawn") is image


def outcome(case, verdict, failed=(), undecided=()):
    return CleanOutcome(
        case=case,
        verdict=verdict,
        failed=failed,
        undecided=undecided,
        claims=10,
        float64=0.1,
        float32={"eager": 1.0},
        seconds=1.0,
    )


def test_what_is_not_decided_is_no_alarm_and_what_fails_is():
    first, second, third = clean.odd_cases(3, ("eager",), 0)
    found = clean.result(
        [
            outcome(first, "equal"),
            outcome(second, "not decided", undecided=("inference_scores",)),
            outcome(third, "different", failed=("same_function",)),
        ],
        "",
    )
    assert (found.alarms, found.verdict) == (1, "fails")
    assert list(recheck_clean_audits(found)) == []
    assert "(inference_scores)" in clean.describe(found.outcomes[1])
