"""The mechanism of planted faults: what is changed comes back, and what was said is scored."""

import types
from contextlib import nullcontext

import numpy as np
import pytest

from parity.errors import InputError
from parity.faults import Fault, Named, Outcome, conventional, score
from parity.planting import changed_method, replaced, rewritten


class Counter:
    def __init__(self, start):
        self.start = start

    def next(self):
        return self.start + 1


def fault(**changes):
    known = {
        "id": "one",
        "family": "f",
        "stage": "s",
        "what": "w",
        "bench": "b",
        "plant": lambda bench: nullcontext(),
        "places": ("layer", "layer:output"),
        "causes": ("epsilon",),
    }
    return Fault(**known | changes)


def test_rewritten_changes_one_place():
    assert rewritten(Counter.next, "+ 1", "+ 2")(Counter(3)) == 5
    assert Counter(3).next() == 4


@pytest.mark.parametrize("old", ["+ 7", "s"])
def test_rewritten_refuses_what_is_not_there_exactly_once(old):
    with pytest.raises(InputError, match="places to change"):
        rewritten(Counter.next, old, "+ 2")


def test_changed_method_is_that_of_one_instance_for_a_while():
    one, other = Counter(3), Counter(3)
    with changed_method(one, "next", "+ 1", "- 1"):
        assert (one.next(), other.next()) == (2, 4)
    assert one.next() == 4
    assert "next" not in vars(one)


def test_replaced_restores_classes_modules_and_instances():
    module = types.ModuleType("module")
    module.value = 1
    for owner in (module, Counter):
        name = "value" if owner is module else "next"
        before = getattr(owner, name)
        with replaced(owner, name, 2):
            assert getattr(owner, name) == 2
        assert getattr(owner, name) is before


def test_outcome_ranks_places_and_causes():
    right = Named("layer", "layer:output", ("epsilon 1e-6 instead of 1e-5",))
    wrong = Named("other", "other:output", ("padding",))
    best = Outcome.of(fault(), claims=("claim",), named=(right, wrong), seconds=1.0)
    assert (best.detected, best.rank, best.place_exact, best.cause_named) == (True, 1, True, True)
    second = Outcome.of(fault(), claims=("claim",), named=(wrong, right), seconds=1.0)
    assert (second.rank, second.place_exact, second.cause_named) == (2, False, True)
    blind = Outcome.of(fault(), claims=(), named=(), seconds=1.0)
    assert (blind.detected, blind.rank, blind.cause_named) == (False, None, False)
    other_cause = Outcome.of(
        fault(causes=("scale",)), claims=("claim",), named=(right,), seconds=1.0
    )
    assert not other_cause.cause_named


def test_score_counts_and_lists_survivors():
    right = Named("layer", "", ("epsilon",))
    outcomes = [
        Outcome.of(
            fault(id="found"), claims=("c",), named=(right,), seconds=2.0, noticed={"cosine": False}
        ),
        Outcome.of(fault(id="lost"), claims=(), named=(), seconds=1.0, noticed={"cosine": True}),
        Outcome.of(fault(id="elsewhere"), claims=("c",), named=(Named("x"),), seconds=1.0),
    ]
    total = score(outcomes)
    assert (total.faults, total.detected, total.place_exact, total.cause_named) == (3, 2, 1, 1)
    assert total.missed == {"cosine": 1}
    assert total.undetected == ("lost",)
    assert total.misplaced == total.unexplained == ("lost", "elsewhere")
    assert total.seconds == 4.0


def test_conventional_criteria_see_gross_differences_only():
    rng = np.random.default_rng(0)
    exact = {"out": rng.normal(size=1000) + 10}
    assert not any(conventional(exact, exact).values())
    tiny = {"out": exact["out"] * (1 + 1e-6)}
    assert list(conventional(tiny, exact).values()) == [False] * 4
    gross = {"out": np.roll(exact["out"], 1)}
    assert all(v for k, v in conventional(gross, exact).items() if "cosine" not in k)
    assert all(conventional({}, exact).values())
    assert all(conventional({"out": np.full(1000, np.nan)}, exact).values())


def test_an_inherited_method_is_inherited_again():
    class Base:
        def called(self) -> str:
            return "base"

    class Derived(Base):
        pass

    with replaced(Derived, "called", lambda self: "another"):
        assert Derived().called() == "another"
    assert "called" not in vars(Derived)
    assert Derived().called() == "base"


def test_a_static_method_stays_one():
    class Base:
        @staticmethod
        def called() -> str:
            return "base"

    with replaced(Base, "called", staticmethod(lambda: "another")):
        assert Base().called() == "another"
    assert Base().called() == "base"
