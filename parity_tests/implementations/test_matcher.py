"""Costs and pairs equal the original's stored ones, and each other's in float64."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tf_impl  # noqa: F401  (selects tf_keras before TensorFlow is imported)
from maskformer.model.config import LossConfig
from parity.errors import InputError
from parity_tests.golden_files import load, unpack_masks
from tf_impl import matcher as tf_matcher
from tf_impl.linear_sum_assignment import NOT_FINITE
from torch_reference import matcher as torch_matcher

tf = pytest.importorskip("tensorflow")

ARRAYS, TEXTS = load("golden_matcher")
CASES = TEXTS["info"]
IDS = [f"{case['case']}-{case['kind']}" for case in CASES]


def _targets(case):
    key = f"c{case['case']}"
    return [
        {"labels": ARRAYS[f"{key}_labels_{b}"], "masks": unpack_masks(ARRAYS, f"{key}_masks_{b}")}
        for b in range(len(case["T"]))
    ]


def _predictions(case):
    key = f"c{case['case']}"
    return ARRAYS[f"{key}_pred_logits"], ARRAYS[f"{key}_pred_masks"]


def _as_torch(target):
    return {name: torch.tensor(value) for name, value in target.items()}


def _torch_result(case, dtype="float32"):
    """Costs and pairs of every image."""
    matcher = torch_matcher.HungarianMatcher(LossConfig(*case["costs"]))
    logits, masks = (torch.tensor(x.astype(dtype)) for x in _predictions(case))
    targets = [_as_torch(target) for target in _targets(case)]
    costs = [matcher.costs(*one).numpy() for one in zip(logits, masks, targets, strict=True)]
    pairs = matcher({"pred_logits": logits, "pred_masks": masks}, targets)
    return costs, [np.stack(pair) for pair in pairs]


def _tf_result(case, dtype="float32"):
    weights = LossConfig(*case["costs"])
    logits, masks = (tf.constant(x.astype(dtype)) for x in _predictions(case))
    targets = tf_matcher.pad_targets(_targets(case), max(case["T"]) + 2, overlapping=True)
    costs = tf_matcher.matching_costs(logits, masks, targets, weights).numpy()
    matching = tf_matcher.match(logits[None], masks[None], targets, weights)
    found = matching.target_of_query[0].numpy()
    pairs = [np.stack([np.flatnonzero(row >= 0), row[row >= 0]]) for row in found]
    return [costs[b, :, :t] for b, t in enumerate(case["T"])], pairs


RESULTS = {"torch": _torch_result, "tf": _tf_result}


def _cost_error(case, side):
    """Largest cost gap to the stored float32 costs over its limit, both computed in float32.

    The limit is 4 times the reference's own float32 rounding, at least an ulp of the largest cost.
    """
    exact, _ = _torch_result(case, "float64")
    actual, _ = RESULTS[side](case)
    worst = 0.0
    for b, ours in enumerate(actual):
        stored = ARRAYS[f"c{case['case']}_cost_{b}"]
        if stored.size == 0:
            continue
        own = np.abs(stored - exact[b]).max()
        limit = 4 * max(own, np.finfo(np.float32).eps * np.abs(stored).max())
        worst = max(worst, float(np.abs(ours - exact[b]).max() / limit))
    return worst


def _pair_faults(case, pairs):
    """Where `pairs` are not the stored ones and the stored costs do not tie either.

    Costs tie where two assignments of n pairs are no further apart than 2 n times the reference's
    own float32 rounding of a cost, at least an ulp of the largest; which of them is cheapest then
    depends on the order in which a processor sums.
    """
    faults = []
    exact, _ = _torch_result(case, "float64")
    for b, pair in enumerate(pairs):
        stored = ARRAYS[f"c{case['case']}_indices_{b}"]
        if np.array_equal(pair, stored):
            continue
        cost = ARRAYS[f"c{case['case']}_cost_{b}"].astype(np.float64)
        total, best = cost[tuple(pair)].sum(), cost[tuple(stored)].sum()
        own = np.abs(cost - exact[b]).max()
        rounding = max(own, np.finfo(np.float32).eps * np.abs(cost).max())
        if len(pair[0]) != len(stored[0]) or total > best + 2 * len(stored[0]) * rounding:
            faults.append(f"image {b}: total cost {total}, stored {best}")
    return faults


@pytest.mark.parametrize("side", RESULTS)
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_costs_are_the_stored_ones(case, side):
    error = _cost_error(case, side)
    assert error <= 1, f"cost error is {error:.2f} of its limit [{case['kind']}, {side}]"


@pytest.mark.parametrize("side", RESULTS)
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_pairs_are_the_stored_ones(case, side):
    _, pairs = RESULTS[side](case)
    assert _pair_faults(case, pairs) == []


def test_swapped_pairs_are_detected():
    case = next(case for case in CASES if min(case["T"]) >= 3 and not case["exact_ties"])
    pairs = list(_tf_result(case)[1])
    queries, targets = pairs[0]
    pairs[0] = np.stack([queries, np.roll(targets, 1)])
    assert len(_pair_faults(case, pairs)) == 1


def _bilinear(targets, size, dtype):
    dense = tf.transpose(tf.cast(targets.masks, tf.float32), [0, 2, 3, 1])
    small = tf.transpose(tf.image.resize(dense, size), [0, 3, 1, 2])
    return tf.cast(tf.reshape(small, (*small.shape[:2], -1)), dtype)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("downsampled_masks", _bilinear),
        ("FOCAL_ALPHA", 1 - tf_matcher.FOCAL_ALPHA),
        ("FOCAL_GAMMA", 1),
    ],
)
def test_planted_fault_in_the_costs_is_detected(monkeypatch, name, fault):
    case = next(case for case in CASES if min(case["T"]) >= 3)
    monkeypatch.setattr(tf_matcher, name, fault)
    assert _cost_error(case, "tf") > 10


@functools.cache
def _compiled():
    return tf.function(tf_matcher.match, jit_compile=True)


@settings(max_examples=8)
@given(st.integers(0, 2**31), st.lists(st.integers(0, 6), min_size=2, max_size=2))
def test_frameworks_agree_in_float64_on_disjoint_targets(seed, counts):
    rng = np.random.default_rng(seed)
    weights = LossConfig()
    logits = rng.normal(size=(2, 2, 9, 6))
    masks = rng.normal(size=(2, 2, 9, 6, 7)) * 3
    owner = rng.integers(-1, 7, (2, 23, 29))
    targets = [
        {"labels": rng.integers(0, 5, t), "masks": owner[b] == np.arange(t)[:, None, None]}
        for b, t in enumerate(counts)
    ]
    padded = tf_matcher.pad_targets(targets, 7)
    matching = _compiled()(tf.constant(logits), tf.constant(masks), padded, weights)
    matcher = torch_matcher.HungarianMatcher(weights)
    for layer in range(2):
        costs = tf_matcher.matching_costs(
            tf.constant(logits[layer]), tf.constant(masks[layer]), padded, weights
        ).numpy()
        for b, t in enumerate(counts):
            target = _as_torch(targets[b])
            one = torch.tensor(logits[layer, b]), torch.tensor(masks[layer, b])
            expected = matcher.costs(*one, target).numpy()
            np.testing.assert_allclose(costs[b, :, :t], expected, rtol=1e-12, atol=1e-12)
            pairs = matcher({"pred_logits": one[0][None], "pred_masks": one[1][None]}, [target])[0]
            found = matching.target_of_query[layer, b].numpy()
            assert np.array_equal(np.flatnonzero(found >= 0), pairs[0].numpy())
            assert np.array_equal(found[found >= 0], pairs[1].numpy())


def test_nan_in_one_image_leaves_the_others_matched():
    rng = np.random.default_rng(0)
    logits, masks = rng.normal(size=(1, 2, 9, 6)), rng.normal(size=(1, 2, 9, 6, 7))
    logits[0, 0, 4] = np.nan
    owner = rng.integers(0, 3, (23, 29)) == np.arange(3)[:, None, None]
    targets = [{"labels": np.arange(3), "masks": owner}] * 2
    matching = tf_matcher.match(
        tf.constant(logits),
        tf.constant(masks),
        tf_matcher.pad_targets(targets, 4),
        LossConfig(),
    )
    assert matching.status.numpy().tolist() == [[NOT_FINITE, 0]]
    assert (matching.query_of_target[0, 0].numpy() == -1).all()
    assert (matching.query_of_target[0, 1].numpy()[:3] >= 0).all()


def test_targets_beyond_the_padding_are_counted():
    masks = np.arange(4)[:, None, None] == np.arange(4).repeat(5).reshape(4, 5)
    padded = tf_matcher.pad_targets([{"labels": np.arange(4), "masks": masks}], 3)
    assert padded.dropped.numpy().tolist() == [1]
    assert padded.valid.numpy().tolist() == [[True] * 3]
    assert (padded.masks.numpy()[0, 3] == -1).all()


def test_overlapping_masks_do_not_fit_an_id_map():
    targets = [{"labels": np.arange(2), "masks": np.ones((2, 3, 3), bool)}]
    with pytest.raises(InputError, match="the masks of image 0 overlap"):
        tf_matcher.pad_targets(targets, 2)
    dense = tf_matcher.pad_targets(targets, 2, overlapping=True)
    assert dense.masks.shape == (1, 2, 3, 3)


def _vanishing_targets(same_class=True):
    """Two targets of one pixel each that the nearest rule leaves out of the costs' 8x8 masks."""
    masks = np.zeros((3, 32, 32), bool)
    masks[0, 5, 5] = masks[1, 21, 22] = masks[2, 8:16, 8:16] = True
    return {"labels": np.array([1, 1 if same_class else 2, 0]), "masks": masks}


def _pairs_of_vanishing(target):
    """Costs [Q,T] in float64 and the targets' queries [T], of both sides, for random outputs."""
    rng = np.random.default_rng(0)
    logits, masks = rng.normal(size=(1, 5, 4)), rng.normal(size=(1, 5, 8, 8))
    weights = LossConfig()
    reference = torch_matcher.HungarianMatcher(weights)
    tensors = torch.tensor(logits), torch.tensor(masks)
    cost = reference.costs(tensors[0][0], tensors[1][0], _as_torch(target)).numpy()
    query, matched = reference(
        {"pred_logits": tensors[0], "pred_masks": tensors[1]}, [_as_torch(target)]
    )[0]
    port = tf_matcher.match(
        tf.constant(logits)[None],
        tf.constant(masks)[None],
        tf_matcher.pad_targets([target], 3),
        weights,
    )
    return cost, query.numpy()[matched.argsort().numpy()], port.query_of_target[0, 0].numpy()


def test_targets_that_vanish_at_mask_resolution_tie_exactly():
    """So either side may give them in either order, at the same total cost (docs/compatibility)."""
    cost, *found = _pairs_of_vanishing(_vanishing_targets())
    assert np.array_equal(cost[:, 0], cost[:, 1])
    totals = [cost[queries, np.arange(3)].sum() for queries in found]
    assert totals[0] == pytest.approx(totals[1], rel=1e-15)
    assert set(found[0][:2]) == set(found[1][:2])
    assert found[0][2] == found[1][2]


def test_vanishing_targets_of_two_classes_do_not_tie():
    """The twin: another class tells the two apart, and both sides pair them alike."""
    cost, *found = _pairs_of_vanishing(_vanishing_targets(same_class=False))
    assert not np.array_equal(cost[:, 0], cost[:, 1])
    assert np.array_equal(*found)
