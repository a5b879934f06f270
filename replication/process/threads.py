"""How many threads both frameworks compute with."""

from parity.errors import InputError


def set_threads(count: int | None) -> None:
    """Lets both frameworks use `count` threads; None leaves their defaults. Call before any run."""
    if count is None:
        return
    if count < 1:
        raise InputError(f"--threads is {count}", "expected at least 1")
    import torch

    import tf_impl  # noqa: F401 (selects tf_keras before TensorFlow is imported)

    torch.set_num_threads(count)
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(count)
