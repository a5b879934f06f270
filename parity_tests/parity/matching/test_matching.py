"""Pairs of random models: what is found is true, and what cannot be known is asked."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.matching.search import matched_sides
from parity.matching.seen import Side, Weight
from parity_tests.parity.matching.random_models import SHAPES, Models, Spec, models

SPECS = st.lists(
    st.builds(
        Spec,
        st.sampled_from(SHAPES),
        st.integers(2, 4),
        st.sampled_from([False, False, True]),
        st.sampled_from([False, False, False, True]),
        st.integers(0, 2),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


def wrong(pair: Models, found) -> list[tuple[str, str]]:
    """Pairs of weights, and of modules with weights, that are not the truth."""
    false = [
        (line.ours, line.theirs)
        for line in found.tensors
        if not any(
            line.theirs == key or pair.alike(line.theirs, key) for key in pair.truth[line.ours]
        )
    ]
    owners = {}
    for path, keys in pair.truth.items():
        owner = pair.ours.weights[path].owner
        owners.setdefault(owner, set()).update(pair.theirs.weights[key].owner for key in keys)
    keys = {}
    for key, one in pair.theirs.weights.items():
        keys.setdefault(one.owner, key)
    false += [
        (line.ours, line.theirs)
        for line in found.modules
        if line.ours in owners
        and line.theirs in keys
        and not any(
            line.theirs == owner or pair.alike(keys[line.theirs], keys[owner])
            for owner in owners[line.ours]
        )
    ]
    return false


def untold(pair: Models, found) -> list[str]:
    """Variables that were neither paired, nor asked for, nor said to be alone."""
    told = {line.ours for line in found.tensors} | set(found.weights.port_only)
    told |= {path for question in found.questions for path in question.ours}
    return [
        path
        for path in pair.truth
        if path not in told and pair.ours.weights[path].owner not in told
    ]


@settings(max_examples=2000)
@given(SPECS, st.booleans(), st.integers(0, 2**16))
def test_no_pair_is_wrong_and_nothing_is_passed_over(specs, shared, seed):
    pair = models(specs, shared, seed)
    found = matched_sides(pair.theirs, pair.ours)
    assert wrong(pair, found) == []
    assert untold(pair, found) == []


@settings(max_examples=200)
@given(SPECS, st.integers(0, 2**16))
def test_weights_that_tell_something_are_all_found(specs, seed):
    own = [
        Spec(s.kind, s.width, False, False, s.packed, s.swapped, s.fused, s.known) for s in specs
    ]
    pair = models(own, True, seed)
    found = matched_sides(pair.theirs, pair.ours)
    assert found.questions == ()
    assert {line.ours for line in found.tensors} == set(pair.truth)
    assert all(line.sure for line in found.tensors)
    assert found.shared


def test_a_pair_that_is_exchanged_would_be_noticed():
    """The twin of the two above: the truth with two layers exchanged."""
    spec = Spec("linear", 3, False, False, 0, False, False, True)
    pair = models([spec, spec, spec], True, 0)
    found = matched_sides(pair.theirs, pair.ours)
    assert wrong(pair, found) == []
    first, second = list(pair.truth)[2], list(pair.truth)[4]
    pair.truth[first], pair.truth[second] = pair.truth[second], pair.truth[first]
    assert len(wrong(pair, found)) >= 2


def lone(**weights: np.ndarray) -> Side:
    """A side whose layers were never called."""
    return Side(
        {f"{name}.weight": Weight(name, "weight", array) for name, array in weights.items()},
        ["", *weights],
    )


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_rounded_weights_are_paired_by_their_nearest():
    arrays = {name: drawn(5, 4, seed=seed) for seed, name in enumerate("abc")}
    rounded = {f"x{name}": array.astype(np.float16).T for name, array in arrays.items()}
    found = matched_sides(lone(**arrays), lone(**rounded))
    assert {(one.ours[1], one.theirs[0]) for one in found.tensors} == {(n, n) for n in "abc"}
    assert {one.evidence.partition(",")[0] for one in found.tensors} == {"nearest weights"}
    assert not any(one.sure for one in found.tensors)


def test_equal_weights_of_another_number_are_asked_for():
    array = drawn(4, 4)
    found = matched_sides(
        lone(a=array, b=array.copy(), c=drawn(4, 4, seed=1)), lone(x=array.T, y=drawn(4, 4, seed=1))
    )
    (question,) = found.questions
    assert (question.theirs, question.ours) == (("a.weight", "b.weight"), ("x.weight",))
    assert "another number of layers" in question.why


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("sizes", [(4, 4, 4), (8, 2, 2)])
def test_parts_of_any_size_are_found_along_any_axis(axis, sizes):
    whole = drawn(12, 5) if axis == 0 else drawn(5, 12)
    parts = np.split(whole, np.cumsum(sizes)[:-1], axis)
    ours = lone(**{f"p{index}": one.T for index, one in enumerate(parts)})
    found = matched_sides(lone(whole=whole), ours)
    state = {"whole.weight": whole}
    held = {path: one.held for path, one in ours.weights.items()}
    np.testing.assert_array_equal(found.read(held.__getitem__, state)["whole.weight"], whole)
    # And the other way round: the port holds in one array what the reference has in three.
    back = matched_sides(ours, lone(whole=whole))
    state = {path: one.held for path, one in ours.weights.items()}
    read = back.read(lambda path: whole, state)
    for path, one in ours.weights.items():
        np.testing.assert_array_equal(read[path], one.held)
