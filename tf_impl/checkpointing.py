"""Finds the checkpoint that a run continues from: the newest one whose every byte is right."""

import re
from dataclasses import dataclass

import tensorflow as tf
from absl import logging

NAME = "ckpt"
"""Prefix of a run's checkpoints: `ckpt-STEP`, as Orbit writes them."""


@dataclass(frozen=True)
class Saved:
    """A usable checkpoint: its prefix, and the steps that were done when it was written."""

    prefix: str
    step: int


def newest_usable(model_dir: str) -> Saved | None:
    """The newest checkpoint in `model_dir` that can be read whole; None without any.

    Damaged ones (a torn file, a flipped bit) are skipped with a warning. A checkpoint is complete
    when its index file exists: TensorFlow writes data first and gives the index its name last.
    """
    for step in sorted(_steps(model_dir), reverse=True):
        prefix = tf.io.gfile.join(model_dir, f"{NAME}-{step}")
        problem = _problem(prefix)
        if problem is None:
            return Saved(prefix, step)
        logging.warning("checkpoint %s is damaged and was skipped: %s", prefix, problem)
    return None


def select(model_dir: str, saved: Saved) -> None:
    """Makes `saved` the checkpoint that TensorFlow takes for the latest in `model_dir`.

    Newer ones, which are damaged, are no longer listed; their files stay until they are written
    again.
    """
    listed = [step for step in sorted(_steps(model_dir)) if step <= saved.step]
    tf.compat.v1.train.update_checkpoint_state(
        model_dir, f"{NAME}-{saved.step}", [f"{NAME}-{step}" for step in listed]
    )


def _steps(model_dir: str) -> list[int]:
    pattern = tf.io.gfile.join(model_dir, f"{NAME}-*.index")
    names = (re.search(rf"{NAME}-(\d+)\.index$", path) for path in tf.io.gfile.glob(pattern))
    return [int(name.group(1)) for name in names if name]


def _problem(prefix: str) -> str | None:
    """Why a checkpoint cannot be used, or None: reading a tensor checks its checksum."""
    try:
        reader = tf.train.load_checkpoint(prefix)
        for key in reader.get_variable_to_shape_map():
            reader.get_tensor(key)
    except (tf.errors.OpError, RuntimeError, ValueError, IndexError) as error:
        return str(error).splitlines()[0][:200]
    return None
