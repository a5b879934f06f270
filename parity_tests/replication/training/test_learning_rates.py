"""What the optimizer makes of a schedule and of the clip, at every turn of a run."""

import pytest

from maskformer.model import zoo
from replication.faults.catalogue.planting import function, method
from replication.training.rates import rate_claims
from tf_impl import optimizer

NAMES = ("tiny", "coco_swin_tiny", "ade20k_r50", "ade20k_swin_tiny")
RATE = "tf.cast(self.learning_rate * factor, variable.dtype)"


def claims(name, plant):
    """Of one solver, what is said of its schedule and of its optimizer with a fault."""
    with plant(None):
        schedule, applied, _ = rate_claims(zoo.get(name).solver, "test")
    assert schedule.verdict == "holds"
    return applied


@pytest.mark.parametrize("name", NAMES)
def test_rate_claims_hold_for_published_solvers(name):
    assert [one.verdict for one in rate_claims(zoo.get(name).solver, "test")] == ["holds"] * 3


@pytest.mark.parametrize(
    ("plant", "cause"),
    [
        (
            function(optimizer, "build_optimizer", "SolverSchedule(solver, dtype)",
                     "solver.base_lr"),
            "the schedule does not reach the optimizer",
        ),
        (
            method(optimizer.TorchAdamW, "update_step", RATE,
                   "tf.cast(self._learning_rate(self.iterations + 1) * factor, variable.dtype)"),
            "the rate is that of the update after",
        ),
        (
            function(optimizer, "clip_scale",
                     "tf.minimum(clip / (norm + CLIP_EPSILON), tf.ones_like(norm))",
                     "clip / (norm + CLIP_EPSILON)"),
            "gradients shorter than the clip are scaled up to it",
        ),
    ],
    ids=["constant", "late", "scaled-up"],
)  # fmt: skip
def test_applied_claim_names_what_one_update_does_not_show(plant, cause):
    found = claims("ade20k_swin_tiny", plant)
    assert found.verdict == "fails"
    assert found.place.text.startswith("optimizer: from update 0")
    assert found.cause == cause
