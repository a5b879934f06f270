"""Functions that are no models: equal to rounding, or the case, the element and the cause."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import parity
from parity.comparing.functions import FunctionsResult
from parity.errors import InputError
from parity.records import json_text
from parity.results import Result

SIZES = st.integers(2, 6)


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    grown = np.exp(x - x.max(axis, keepdims=True))
    return grown / grown.sum(axis, keepdims=True)


def entropy(logits: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, labels, weight)


CLASSES = 5
LABELS = ([0, 1, 2, 3, 4, 4, 1, 0], [4, 3, 3, 2, 1, 0, 0, 2, 4, 1, 1, 3])
BATCHES = [
    (drawn(len(labels), CLASSES), np.array(labels), np.array([1, 0.5, 2, 1, 0.1], np.float32))
    for labels in LABELS
]


def port_entropy(
    roll: int = 0,
    ignored: int | None = None,
    entry: tuple[int, float] | None = None,
    mean: bool = True,
    factor: float = 1.0,
) -> Callable:
    """The same loss in NumPy, with a mistake."""

    def port(logits: np.ndarray, labels: np.ndarray, weight: np.ndarray) -> np.ndarray:
        weight = weight.copy()
        if entry:
            weight[entry[0]] = entry[1]
        own = weight[labels] * (labels != ignored)
        log = np.log(softmax(np.roll(logits, roll, -1)))[np.arange(len(labels)), labels]
        total = -(own * log).sum()
        return factor * (total / own.sum() if mean else total)

    return port


def test_a_loss_of_another_framework_is_equal():
    result = parity.compare_functions(entropy, port_entropy(), BATCHES, title="Entropy")
    assert (result.verdict, result.title, result.first) == ("equal", "Entropy", None)
    assert [one.id for one in result.claims] == ["outputs", "same_function", "same_precision"]
    assert [one.key for one in result.outputs] == ["0:result", "1:result"]


@pytest.mark.parametrize(
    ("mistake", "cause"),
    [
        ({"roll": 1}, "it takes input `0` rolled by 1 along axis 1"),
        ({"ignored": 2}, "it leaves out the examples of class 2 in input `1`"),
        ({"entry": (4, 0.001)}, "it takes entry 4 of input `2` for 0.001 instead of 0.1000000015"),
        (
            {"mean": False},
            "it sums, where the reference takes the mean weighted by input `2`",
        ),
        ({"factor": 0.5}, "it is the reference's times 0.5"),
    ],
    ids=["a rolled order", "an ignored class", "one entry", "a sum", "a factor"],
)
def test_a_mistake_is_named(mistake, cause):
    result = parity.compare_functions(entropy, port_entropy(**mistake), BATCHES)
    assert result.verdict == "different"
    assert result.causes[0] == cause
    (failing, *_) = result.failing
    assert failing.place.text.startswith("case 0, result: port ")
    assert failing.cause == cause


def test_one_number_is_explained_by_no_factor():
    result = parity.compare_functions(entropy, port_entropy(factor=0.96), BATCHES[:1])
    assert (result.verdict, result.causes) == ("different", ())


@given(SIZES, SIZES)
def test_a_sum_for_a_mean_is_named(rows, columns):
    cases = [(drawn(rows, columns),), (drawn(rows + 1, columns + 2),)]
    result = parity.compare_functions(lambda x: x.mean(0), lambda x: x.sum(0), cases)
    assert (
        result.causes[0] == "it sums over axis 0 of input `0`, where the reference takes the mean"
    )
    assert parity.compare_functions(np.mean, np.mean, cases).verdict == "equal"


def test_another_axis_of_a_reference_of_pytorch_is_named():
    cases = [(drawn(4, 5),)]
    result = parity.compare_functions(lambda x: torch.softmax(x, 1), lambda x: softmax(x, 0), cases)
    assert "softmax over axis 0 instead of 1" in result.causes[0]


def test_transposed_results_are_named():
    case = [(drawn(4, 5), drawn(5, 3))]
    result = parity.compare_functions(lambda a, b: a @ b, lambda a, b: (a @ b).T, case)
    assert result.causes[0] == "it has other axes: 1, 0" or "order 1, 0" in result.causes[0]
    assert result.claims[1].place.part == "0:result"


COSTS = {
    "tie": (np.array([[1, 1, 5], [1, 1, 5], [5, 5, 1]], np.float32),),
    "plain": (np.array([[1, 2], [3, 1]], np.float32),),
}


def cheapest(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(cost)


def total(pairs: tuple[np.ndarray, np.ndarray], cost: np.ndarray) -> np.ndarray:
    return cost[pairs[0], pairs[1]].sum()


def exchanged(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two columns exchanged: where both cost the same, as good an assignment."""
    rows, columns = cheapest(cost)
    swapped = {0: 1, 1: 0}
    return rows, np.array([swapped.get(int(one), int(one)) for one in columns])


def test_another_assignment_of_the_same_cost_is_a_tie():
    result = parity.compare_functions(cheapest, exchanged, {"tie": COSTS["tie"]}, cost=total)
    assert result.verdict == "equal"
    (tie,) = [one.tie for one in result.outputs if one.tie]
    assert tie.endswith("cost 3 instead of 3")


def test_another_assignment_that_costs_more_is_a_difference():
    result = parity.compare_functions(cheapest, exchanged, COSTS, cost=total)
    assert result.verdict == "different"
    assert result.first == "plain:1"
    place = result.claimed("same_decisions_float64").place.text
    assert place.endswith("first at [0]: port 1, reference 0; cost 5 instead of 2")


def test_a_decision_that_the_reference_makes_both_ways_is_a_tie():
    case = [(np.array([0.5, 0.5, 0.1], np.float32),)]

    def last(x: np.ndarray) -> int:
        return int(len(x) - 1 - np.argmax(x[::-1]))

    assert parity.compare_functions(np.argmax, last, case).verdict == "equal"
    other = parity.compare_functions(np.argmax, np.argmin, case)
    assert other.verdict == "different"
    assert "port 2, reference 0" in other.claimed("same_decisions_float64").place.text


def test_a_port_that_computes_in_half_is_less_exact():
    cases = [(drawn(4, 6),)]

    def short(x: np.ndarray) -> np.ndarray:
        return x.sum(-1) if x.dtype == np.float64 else x.astype(np.float16).sum(-1).astype("f")

    result = parity.compare_functions(lambda x: x.sum(-1), short, cases)
    assert [one.id for one in result.failing] == ["same_precision"]


def test_nan_at_the_same_places_is_equal():
    cases = [(np.array([1, -1, 4], np.float32),)]

    def root(x: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.sqrt(x)

    assert parity.compare_functions(root, root, cases).verdict == "equal"
    result = parity.compare_functions(root, lambda x: np.sqrt(np.abs(x)), cases)
    assert result.verdict == "different"


def test_results_that_one_side_lacks_are_listed():
    cases = [(drawn(3),)]
    result = parity.compare_functions(
        lambda x: {"a": x, "b": x > 0}, lambda x: {"a": x, "b": x, "c": x}, cases
    )
    assert result.claims[0].measured.found == [
        "0:b is float64 instead of bool",
        "0:c is lacking in the reference",
    ]


def test_a_port_that_fails_in_one_case_is_a_difference():
    cases = {"good": (np.eye(2, dtype="f") * 2,), "singular": (np.zeros((2, 2), "f"),)}

    def fails(x: np.ndarray) -> np.ndarray:
        if x.any():
            raise RuntimeError("no")
        return np.linalg.inv(x)

    assert parity.compare_functions(np.linalg.inv, np.linalg.inv, cases).verdict == "equal"
    result = parity.compare_functions(np.linalg.inv, fails, cases)
    assert result.claims[0].place.text == "good: the port alone fails: RuntimeError: no"


@pytest.mark.parametrize(
    ("action", "text"),
    [
        (lambda: parity.compare_functions(np.mean, np.mean, []), "there are no cases"),
        (lambda: parity.compare_functions(np.mean, np.mean, [1]), "case 0 is a int"),
        (lambda: parity.compare_functions(np.mean, 3, [(drawn(2),)]), "the port is a int"),
        (
            lambda: parity.compare_functions(lambda x: np.random.random(), np.mean, [(drawn(2),)]),
            "gives another result each time",
        ),
        (
            lambda: parity.compare_functions(lambda x: x.nothing, np.mean, [(drawn(2),)]),
            "the reference fails in every case",
        ),
        (
            lambda: parity.compare_functions(
                np.mean, np.mean, [(drawn(2),)], frameworks=("Theano", None)
            ),
            "`Theano` is no framework",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(action, text):
    with pytest.raises(InputError) as caught:
        action()
    assert text in str(caught.value)
    assert len(str(caught.value).splitlines()) == 3


def test_a_function_that_converts_its_arrays_is_given_arrays():
    def wrapped(x: np.ndarray) -> np.ndarray:
        return torch.relu(torch.from_numpy(x)).numpy()

    cases = [(drawn(4),)]
    assert parity.compare_functions(wrapped, lambda x: np.maximum(x, 0), cases).verdict == "equal"


def test_a_module_computes_in_the_precision_that_is_compared():
    loss = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0, 0.5]))

    def port(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        weight = np.array([2.0, 0.5], x.dtype)
        sure = 1 / (1 + np.exp(-x))
        return -(weight * y * np.log(sure) + (1 - y) * np.log(1 - sure)).mean()

    cases = [(drawn(3, 2), (drawn(3, 2, seed=1) > 0).astype("f"))]
    assert parity.compare_functions(loss, port, cases).verdict == "equal"


def again(result: Result) -> None:
    """A result is what its file says."""
    text = json_text(result.to_json())
    assert json_text(type(result).from_json(json.loads(text)).to_json()) == text


def test_a_result_is_read_back():
    result = parity.compare_functions(entropy, port_entropy(ignored=2), BATCHES)
    assert isinstance(result, FunctionsResult)
    again(result)
