"""Curves over steps: the band is that of the values at its steps, and equal ones both show."""

import re

import numpy as np
import pytest

from reports.drawing.curves import Series, band, curve_plot
from reports.labels import difference, label

SIZE = (360, 240)


def curve(steps, values):
    return np.array(steps, float), np.array(values, float)


def test_the_band_is_over_the_steps_that_all_curves_have():
    found = band([curve([1, 2, 3], [1, 5, 3]), curve([2, 3, 4], [7, 1, 9])])
    assert found.steps.tolist() == [2, 3]
    assert found.low.tolist() == [5, 1]
    assert found.middle.tolist() == [6, 2]
    assert found.high.tolist() == [7, 3]


def test_curves_that_share_no_step_are_shown_at_all_of_their_steps():
    found = band([curve([12], [0.5]), curve([40], [0.7]), curve([12, 50], [np.nan, 0.9])])
    assert found.steps.tolist() == [12, 40, 50]
    found = band([curve([12], [0.5]), curve([40], [np.nan])])
    assert found.steps.tolist() == [12]
    assert band([curve([12], [np.nan]), curve([40], [np.nan])]) is None


def test_equal_points_of_both_sides_show():
    one = (curve([12], [0.5]),)
    series = [Series("PyTorch", "a0", one), Series("TensorFlow", "a1", one)]
    drawn = str(curve_plot(series, "PQ", "a description", SIZE))
    radii = re.findall(r'<circle class="(a\d)" .*?r="(\d)"', drawn)
    assert radii == [("a0", "6"), ("a1", "4")]


@pytest.mark.parametrize(
    ("name", "text"),
    [("loss", "loss"), ("mean_iou", "mIoU"), ("learning_rate/head", "learning rate, head")],
)
def test_recorded_names_have_words(name, text):
    assert label(name) == text


def test_a_difference_of_sides_is_in_words():
    assert difference("tf - torch") == "TensorFlow minus PyTorch"
