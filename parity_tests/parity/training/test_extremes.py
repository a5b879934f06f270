"""What a loss decides between equal costs shows when its outputs come in another order."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from parity.pairing import tap_gap
from parity.trace import Tap
from parity.training.extremes import moved_gaps, on_outputs
from replication.training.precision import queries_reversed

LOGITS, MASKS = "model:output.pred_logits", "model:output.pred_masks"


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


class Resized:
    """What a loss passes back to a map whose pixel lies between two large numbers: the place is
    rounded as one next to the end of a row of so many pixels is."""

    built = SimpleNamespace(dtype="float64")

    def __init__(self, shift=0.0):
        self.shift = shift

    def alone(self, recorder, taps, execution):
        tap = taps[MASKS]
        left, right = tap.array[0, 0, 0, 30:32]
        place = 0.5 + self.shift
        value = left * (1 - place) + right * place
        gradient = np.zeros_like(tap.array)
        gradient[..., 31] = 1 / (1 + np.exp(-value))
        return {"loss": np.logaddexp(0, value)}, {"grad": replace(tap, array=gradient)}


def resized(axes, shift):
    """The port's gap and the floor, where a place is off by `shift`."""
    array = np.full((1, 1, 1, 33), 900.0)
    array[..., 31] = -900.0 + 1e-3
    taps = {MASKS: Tap("model", "output", "pred_masks", 0, axes, array)}
    exact = on_outputs(Resized(), None, taps, "eager")
    floors = moved_gaps(Resized(), None, taps, exact)
    ours = on_outputs(Resized(shift), None, taps, "eager")
    return tap_gap(ours["grad"], exact["grad"]).l2, floors["grad"].l2


def test_a_place_that_is_rounded_along_a_row_is_within_the_floor():
    gap, floor = resized("NQHW", 32 * 2.0**-53)
    assert 32 * 2.0**-53 < gap < 32 * floor < 1e-9
    # As what is no map it would be moved by one unit, and by hardly more than a tenth of the gap.
    assert resized("NQAB", 0.0)[1] < gap / 4
    gap, floor = resized("NQHW", 1e-9)
    assert gap > 32 * floor
