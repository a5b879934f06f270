"""Replicas of TensorFlow on one processor, in a process of their own."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, TypeVar

from replication.console.progress import without_notes
from replication.console.signals import end_by_signals

if TYPE_CHECKING:
    import tensorflow as tf

Result = TypeVar("Result")


def in_fresh_process(
    function: Callable[..., Result],
    *words: Any,
    prepare: Callable[[], None] | None = None,
    **named: Any,
) -> Result:
    """What `function` returns in a new process: TensorFlow fixes its devices when it starts.

    There `prepare` is called first. A signal that ends this process ends that, and what it began.
    """
    context = get_context("spawn")
    with ProcessPoolExecutor(1, context, _begin, (prepare,)) as pool:
        return pool.submit(function, *words, **named).result()


def _begin(prepare: Callable[[], None] | None) -> None:
    without_notes()
    end_by_signals()
    if prepare is not None:
        prepare()


def mirrored(replicas: int) -> "tf.distribute.MirroredStrategy":
    """A strategy of so many replicas on the processor; before TensorFlow has used any device."""
    import tf_impl  # noqa: F401, I001  (selects tf_keras before TensorFlow is imported)
    import tensorflow as tf

    processor = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration()] * replicas
    tf.config.set_logical_device_configuration(processor, devices)
    return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(replicas)])
