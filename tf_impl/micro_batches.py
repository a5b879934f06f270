"""A batch in several parts, one after the other, whose gradients add up before the update.

Mirrors `torch_reference/micro_batches.py`. A device needs the memory of one part only. Parts count
as replicas do: with "ddp_mean" the losses are those of as many more replicas, with "global" those
of one process that has the whole batch.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
import tf_keras

from maskformer.runs.run_settings import check_parts
from tf_impl.train_step import Batch, Gradients
from tf_impl.train_step import gradients as gradients_of

Observe = Callable[[Gradients, Batch], Mapping[str, tf.Tensor]]


def gradients(
    model: tf_keras.Model,
    batch: Batch,
    count: int,
    training: bool = False,
    observe: Observe | None = None,
    seeded: Callable[[tf.Tensor], contextlib.AbstractContextManager[None]] | None = None,
) -> tuple[Gradients, dict[str, tf.Tensor]]:
    """What `tf_impl.train_step.gradients` finds, of `count` equal parts of a replica's batch.

    Losses and their sum are means over the parts. There are no outputs and no matching: these are
    let go with their part, after `observe` has made numbers of them, whose sums are returned, too.
    The parts are one loop in the program, which `seeded` tells the number of the part, for the
    draws of its dropout. Raises InputError where the batch cannot be divided.
    """
    size = batch.images.shape[0]
    check_parts(size, count)
    divisors = None
    if not model.config.is_per_pixel:
        divisors = model.criterion.divisors(batch.targets, batch.images.dtype, count)
    parts = tf.nest.map_structure(
        lambda one: tf.reshape(one, (count, size // count, *one.shape[1:])), batch
    )

    def find(number: tf.Tensor) -> dict[str, Any]:
        part = tf.nest.map_structure(lambda one: one[number], parts)
        with seeded(number) if seeded else contextlib.nullcontext():
            found = gradients_of(model, part, training, divisors)
        return {
            "losses": found.losses,
            "total": found.total,
            "values": found.values,
            "observed": dict(observe(found, part)) if observe else {},
        }

    sums = _summed(find, count)
    mean = tf.nest.map_structure(
        lambda one: None if one is None else one / count,
        {name: sums[name] for name in ("losses", "total", "values")},
    )
    return Gradients({}, mean["losses"], mean["total"], None, mean["values"]), sums["observed"]


def _summed(find: Callable[[tf.Tensor], Any], count: int) -> Any:
    """The sums over numbers 0 to `count` of what `find` returns; None stays None."""
    # What is found is known before the loop, which needs sums of its shapes to begin with.
    function = tf.function(find, autograph=False).get_concrete_function(tf.TensorSpec([], tf.int32))
    found = tf.nest.flatten(function.structured_outputs)
    zeros = [tf.zeros(one.shape, one.dtype) for one in found if one is not None]

    def add(number: tf.Tensor, sums: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        ones = [one for one in tf.nest.flatten(function(number)) if one is not None]
        return number + 1, [of + one for of, one in zip(sums, ones, strict=True)]

    _, sums = tf.while_loop(
        lambda number, sums: number < count,
        add,
        (tf.constant(0), zeros),
        maximum_iterations=count,
        parallel_iterations=1,
    )
    left = iter(sums)
    filled = [None if one is None else next(left) for one in found]
    return tf.nest.pack_sequence_as(function.structured_outputs, filled)
