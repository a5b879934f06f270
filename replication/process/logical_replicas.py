"""Replicas of TensorFlow on one processor, in a process of their own."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf


def mirrored(replicas: int) -> "tf.distribute.MirroredStrategy":
    """A strategy of so many replicas on the processor; before TensorFlow has used any device."""
    import tf_impl  # noqa: F401, I001  (selects tf_keras before TensorFlow is imported)
    import tensorflow as tf

    processor = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration()] * replicas
    tf.config.set_logical_device_configuration(processor, devices)
    return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(replicas)])
