"""Replicas of TensorFlow on one processor, in a process of their own."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from replication.console.progress import without_notes

if TYPE_CHECKING:
    import tensorflow as tf

Words = ParamSpec("Words")
Result = TypeVar("Result")


def in_fresh_process(
    function: Callable[Words, Result], *words: Words.args, **named: Words.kwargs
) -> Result:
    """What `function` returns in a new process: TensorFlow fixes its devices when it starts."""
    context = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=without_notes) as pool:
        return pool.submit(function, *words, **named).result()


def mirrored(replicas: int) -> "tf.distribute.MirroredStrategy":
    """A strategy of so many replicas on the processor; before TensorFlow has used any device."""
    import tf_impl  # noqa: F401, I001  (selects tf_keras before TensorFlow is imported)
    import tensorflow as tf

    processor = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration()] * replicas
    tf.config.set_logical_device_configuration(processor, devices)
    return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(replicas)])
