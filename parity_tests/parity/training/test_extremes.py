"""What a loss decides between equal costs shows when its outputs come in another order."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from parity.trace import Tap
from parity.training.extremes import moved_gaps, on_outputs
from replication.training.precision import queries_reversed

LOGITS = "model:output.pred_logits"


class Saturated:
    """A loss of the first query whose probability is the largest; all that are 1 are alike."""

    built = SimpleNamespace(dtype="float64")

    def alone(self, recorder, taps, execution):
        tap = taps[LOGITS]
        probabilities = 1 / (1 + np.exp(-tap.array))
        gradient = np.zeros_like(tap.array)
        gradient[:, probabilities[0].argmax()] = 1.0
        return {"loss": probabilities.max()}, {"grad": replace(tap, array=gradient)}


def gaps(logits, turn):
    taps = {LOGITS: Tap("model", "output", "pred_logits", 0, "NQ", np.array([logits]))}
    side = Saturated()
    return moved_gaps(side, None, taps, on_outputs(side, None, taps, "eager"), turn)


@pytest.mark.parametrize(("logits", "decided"), [([90.0, 2.0, 95.0], False), ([0.0, 2, 1], True)])
def test_another_order_shows_what_rounding_does_not(logits, decided):
    assert gaps(logits, None)["grad"].l2 == 0.0
    found = gaps(logits, queries_reversed)
    assert (found["grad"].l2 == 0.0) == decided
    assert found["loss"].l2 < 1e-15
