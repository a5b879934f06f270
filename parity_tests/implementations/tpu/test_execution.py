"""A lowered program of several replicas runs on virtual processors, and mistakes change sums."""

import numpy as np
import pytest
from ml_dtypes import bfloat16

from tf_impl.tpu.execution import Given, execute
from tf_impl.tpu.lowering import lower
from tf_impl.tpu.products import DEPTHS
from tf_impl.tpu.reductions import COUNTS, GRADIENTS, WRONG

REPLICAS, CLIP, RATE = 3, 0.5, 0.1
ROUNDINGS = 64 * 2.0**-24  # sums of some dozen products
BATCHES = np.random.default_rng(0).normal(size=(2, 2 * REPLICAS, 3)).astype(np.float32)
STARTS = (np.ones((3, 2), np.float32), np.float32([0.5, 0.1]))


@pytest.fixture(scope="module")
def program():
    """Squares of a layer's outputs, divided by a count over all replicas; one step downhill."""
    import tf_impl  # noqa: F401, I001  (selects tf_keras before TensorFlow is imported)
    import tensorflow as tf

    weight, bias = map(tf.Variable, STARTS)
    count = tf.Variable(0, dtype=tf.int64)

    def step(x):
        replicas = tf.distribute.get_replica_context()
        total = replicas.all_reduce("SUM", tf.reduce_sum(tf.abs(x)))
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(x @ weight + bias)) / total
        reduced = replicas.all_reduce("SUM", tape.gradient(loss, [weight, bias]))
        for variable, value in zip((weight, bias), reduced, strict=True):
            variable.assign_sub(RATE * value)
        count.assign_add(1)
        return {"loss": loss, "norm": tf.linalg.global_norm(reduced)}

    lowered = lower(step, [tf.TensorSpec((2, 3))], REPLICAS)
    # What is changed later must not change the program's start, nor the fixture that keeps it.
    return lowered, (weight, bias, count)


def shares(batch, weights, total=None):
    """Loss and gradients of each replica, float64."""
    total = np.abs(batch).sum() if total is None else total
    found = []
    for x in np.split(np.float64(batch), REPLICAS):
        divisor = np.abs(x).sum() if total == "own" else total
        out = x @ weights[0] + weights[1]
        gradients = (2 * x.T @ out / divisor, 2 * out.sum(0) / divisor)
        found.append((np.square(out).sum() / divisor, gradients))
    return found


def added(found, factors=(1.0,) * REPLICAS):
    """The gradients of all replicas added up, each times its factor."""
    pairs = [gradients for _, gradients in found]
    return tuple(
        sum(f * pair[part] for f, pair in zip(factors, pairs, strict=True)) for part in (0, 1)
    )


def clipped(found):
    """What is added up where every share is clipped first."""
    norms = [np.sqrt(sum(np.square(one).sum() for one in pair)) for _, pair in found]
    return added(found, [min(1.0, CLIP / (norm + 1e-6)) for norm in norms])


def partly(found):
    """The first sum of the program, that of the weight or of the bias, is left out."""
    return [(own[0], added(found)[1]) for _, own in found], [
        (added(found)[0], own[1]) for _, own in found
    ]


EXPECTED = {
    "": lambda found: [added(found)] * REPLICAS,
    "mean-for-sum": lambda found: [added(found, [1 / REPLICAS] * REPLICAS)] * REPLICAS,
    "share-lost": lambda found: [added(found, [1.0, 1.0, 0.0])] * REPLICAS,
    "share-twice": lambda found: [added(found, [2.0, 1.0, 1.0])] * REPLICAS,
    "summed-again": lambda found: [added(found, [3.0, 3.0, 3.0])] * REPLICAS,
    "shares-apart": lambda found: [pair for _, pair in found],
    "neighbours-share": lambda found: [found[index - 1][1] for index in range(REPLICAS)],
    "largest-for-sum": lambda found: (
        [tuple(np.maximum.reduce([pair[part] for _, pair in found]) for part in (0, 1))] * REPLICAS
    ),
    "clip-first": lambda found: [clipped(found)] * REPLICAS,
}


def run(program, wrong="", steps=1, products=0):
    """Executes the program on the first batches."""
    kept = {step: [0, 1] for step in range(steps)}
    given = Given([[batch] for batch in BATCHES[:steps]], kept, wrong, CLIP, products)
    return execute(program[0], given)


def moved(executed, replica):
    """How far each weight of one replica went downhill in the first step."""
    kept = executed.kept[0]
    return [
        (start - kept[index][replica % len(kept[index])]) / RATE
        for index, start in enumerate(STARTS)
    ]


def near(executed, expected):
    """Whether every replica moved by these gradients."""
    return all(
        np.abs(one - wanted).max() <= ROUNDINGS * 4
        for replica, pair in enumerate(expected)
        for one, wanted in zip(moved(executed, replica), pair, strict=True)
    )


def test_every_mistake_is_tried_here():
    assert {*EXPECTED} | {"partly-summed", "counts-apart"} == {*WRONG, ""}


def test_replicas_make_the_steps_of_one_process(program):
    """Two steps: the second starts from what the first one left, on every replica."""
    executed = run(program, steps=2)
    assert executed.changed == len(program[1])
    assert [list(one) for one in executed.differing] == [[], []]
    weights = [np.float64(one) for one in STARTS]
    for step, batch in enumerate(BATCHES):
        found = shares(batch, weights)
        losses = executed.results[step]["loss"]
        np.testing.assert_allclose(losses, [loss for loss, _ in found], rtol=ROUNDINGS)
        weights = [a - RATE * b for a, b in zip(weights, added(found), strict=True)]
        for index, wanted in enumerate(weights):
            assert executed.kept[step][index].shape[0] == 1
            np.testing.assert_allclose(executed.kept[step][index][0], wanted, atol=ROUNDINGS)


@pytest.mark.parametrize("wrong", [one for one in EXPECTED if one])
def test_a_mistake_in_the_sum_does_what_it_says(program, wrong):
    executed = run(program, wrong)
    found = shares(BATCHES[0], STARTS)
    assert near(executed, EXPECTED[wrong](found))
    assert not near(executed, EXPECTED[""](found))
    apart = wrong in ("shares-apart", "neighbours-share")
    assert bool(executed.differing[0]) == apart


def test_a_sum_that_is_left_out_for_some_is_left_out_for_some(program):
    executed = run(program, "partly-summed")
    found = shares(BATCHES[0], STARTS)
    assert sum(near(executed, one) for one in partly(found)) == 1
    assert len(executed.differing[0]) == 1


def test_counts_apart_divide_every_loss_by_its_own(program):
    executed = run(program, "counts-apart")
    found = shares(BATCHES[0], STARTS, "own")
    wanted = [loss for loss, _ in found]
    np.testing.assert_allclose(executed.results[0]["loss"], wanted, rtol=ROUNDINGS)
    assert near(executed, [added(found)] * REPLICAS)


@pytest.mark.parametrize("passes", DEPTHS)
def test_products_of_the_step_are_those_of_parts(program, passes):
    """The weights are exact in bfloat16, so that a loss tells what is left of the batch."""
    left, kept = BATCHES[0], np.zeros_like(BATCHES[0], np.float64)
    for _ in range(DEPTHS[passes] + 1):
        part = left.astype(bfloat16).astype(np.float32)
        left, kept = left - part, kept + part
    total = np.abs(BATCHES[0]).sum()
    out = kept @ STARTS[0] + STARTS[1]
    wanted = [np.square(one).sum() / total for one in np.split(out, REPLICAS)]
    found = run(program, products=passes).results[0]["loss"]
    np.testing.assert_allclose(found, wanted, rtol=ROUNDINGS)
    whole = [loss for loss, _ in shares(BATCHES[0], STARTS)]
    assert np.allclose(found, whole, rtol=ROUNDINGS, atol=0) == (passes > 1)


def test_sums_are_told_apart_by_what_they_add_up(program):
    """Counts are added up by a scope of their own."""
    from jax._src.interpreters import mlir

    from tf_impl.tpu.compiler import stable_module
    from tf_impl.tpu.reductions import Reductions

    with mlir.make_ir_context():
        found = Reductions(stable_module(program[0].hlo), REPLICAS, CLIP)
        assert (len(found.sums(GRADIENTS)), len(found.sums(COUNTS))) == (2, 1)


def test_a_mistake_needs_a_sum(program):
    """A program without sums over replicas is refused by name, with the process's last words."""
    import tensorflow as tf

    alone = lower(lambda x: {"sum": tf.reduce_sum(x)}, [tf.TensorSpec((2, 3))], REPLICAS)
    with pytest.raises(RuntimeError, match="no sum over replicas in gradients_over_replicas"):
        execute(alone, Given([[BATCHES[0]]], {}, "mean-for-sum", CLIP))
