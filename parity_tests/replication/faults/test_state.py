"""A bench is the same after a fault as before it: what is left behind is noticed, or forgotten."""

from contextlib import contextmanager

import numpy as np
import pytest

from maskformer.data import augmentation
from parity.errors import InputError
from parity.faults import Fault
from parity.planting import replaced
from replication.faults import state
from replication.faults.benches.finding import Finding
from replication.faults.runs import Notes, run_faults

COUNT = 10


class OrderBench:
    """The order of images, which the program keeps while an epoch lasts."""

    def __init__(self):
        self.expected = [augmentation.example_at(3, place, COUNT) for place in range(COUNT)]
        self.settings = {"order": COUNT}
        self.broken = False

    def audit(self):
        found = [augmentation.example_at(3, place, COUNT) for place in range(COUNT)]
        claims = ("order",) if self.broken or found != self.expected else ()
        return Finding(claims, (), {})


def reversed_order(bench):
    right = augmentation.epoch_order
    wrong = lambda seed, epoch, count: right(seed, epoch, count)[::-1]  # noqa: E731
    return replaced(augmentation, "epoch_order", wrong)


@contextmanager
def nothing(bench):
    yield


@contextmanager
def left_in_the_code(bench):
    augmentation.epoch_order = lambda seed, epoch, count: np.arange(count)
    yield


@contextmanager
def left_in_the_settings(bench):
    bench.settings["order"] = COUNT + 1
    yield


@contextmanager
def left_in_the_bench(bench):
    bench.broken = True
    yield


def run(*plants):
    faults = [
        Fault(
            id=f"{index}-{plant.__name__}",
            stage="data",
            what="",
            bench="order",
            plant=plant,
            places=("order",),
        )
        for index, plant in enumerate(plants)
    ]
    notes = Notes(None, {"config": "", "size": "", "catalogue": ""})
    found, _ = run_faults(faults, "", "", {"order": lambda config, size: OrderBench()}, notes)
    return [one.detected for one in found]


def test_what_a_fault_computed_is_no_result_of_the_next():
    assert run(reversed_order, nothing, reversed_order) == [True, False, True]


def test_without_forgetting_one_fault_is_found_in_the_next(monkeypatch):
    monkeypatch.setattr(state, "forget", lambda: None)
    augmentation._cached_order.cache_clear()
    try:
        # The sound order is kept, so that the fault is not seen at all.
        assert run(reversed_order, nothing) == [False, False]
    finally:
        augmentation._cached_order.cache_clear()


@pytest.mark.parametrize(
    ("plant", "named"),
    [
        (left_in_the_code, "augmentation.epoch_order"),
        (left_in_the_settings, "settings order"),
    ],
)
def test_a_fault_that_leaves_something_behind_is_named(monkeypatch, plant, named):
    monkeypatch.setattr(augmentation, "epoch_order", augmentation.epoch_order)
    with pytest.raises(RuntimeError, match=f"0-{plant.__name__} left .*{named} changed"):
        run(plant)


def test_what_no_checksum_sees_fails_when_the_sound_port_is_audited_again():
    with pytest.raises(RuntimeError, match="order fails without a fault after its faults"):
        run(left_in_the_bench)


def test_a_port_that_fails_before_any_fault_is_refused():
    broken = OrderBench()
    broken.broken = True
    notes = Notes(None, {"config": "", "size": "", "catalogue": ""})
    fault = Fault(id="none", stage="data", what="", bench="order", plant=nothing, places=("order",))
    with pytest.raises(InputError, match="the sound port fails in order"):
        run_faults([fault], "", "", {"order": lambda config, size: broken}, notes)
