"""Under its mixed policy the port is as exact as the reference under autocast."""

import pytest

from maskformer.model import zoo
from parity.steps import Steps
from replication.forward.run import Request, audit


@pytest.fixture(scope="module")
def result():
    config = zoo.model_config("tiny")
    request = Request(config, "seeded:0", size="64x96", executions=("bfloat16",))
    return audit(request, Steps(quiet=True))


def test_every_layer_in_bfloat16_is_as_exact_as_the_reference(result):
    assert result.verdict == "equal"
    claims = {one.id for one in result.claims}
    assert {"same_precision_bfloat16", "same_decisions_bfloat16"} <= claims
    figures = [one.float32["bfloat16"] for one in result.layers]
    assert len(figures) == result.taps


def test_both_sides_multiply_in_bfloat16(result):
    """A twin of a claim that would hold in float32 too: both err by 8 bits, not by 24."""
    deep = next(
        one for one in result.layers if one.key == "sem_seg_head.predictor:output.pred_logits"
    )
    figures = deep.float32["bfloat16"]
    assert min(figures.e_ref, figures.e_port) > 2.0**-14
    assert max(figures.e_ref, figures.e_port) < 2.0**-3
