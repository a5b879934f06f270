"""The record of a run in its folder, which may be in a bucket."""

import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from maskformer.metrics.run_scores import COUNTS, ImageCounts
from maskformer.runs.run_record import DESCRIPTION, METRICS, RunRecord, read_run
from parity.errors import InputError
from tf_impl.storage.bucket import is_remote


class RunFolder:
    """Writes rows of `maskformer.runs.run_record`; a remote folder gets its files every row."""

    def __init__(
        self, folder: str, description: Mapping[str, Any], resume_step: int | None
    ) -> None:
        """A new record, or with `resume_step` one that continues; raises InputError as it does."""
        self._folder = folder
        self._temporary = tempfile.TemporaryDirectory() if is_remote(folder) else None
        self._local = Path(self._temporary.name if self._temporary else folder)
        if self._temporary:
            for name in (DESCRIPTION, METRICS):
                self._copy(tf.io.gfile.join(folder, name), str(self._local / name))
        self._record = RunRecord.open(self._local, description, resume_step)
        rows = read_run(self._local).rows
        self.evaluated = frozenset(row.step for row in rows if row.split == "eval")
        self._publish(DESCRIPTION)

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Appends one row, as `RunRecord.write`."""
        self._record.write(step, split, values)
        self._publish(METRICS)

    def save_counts(self, counts: ImageCounts) -> None:
        """Writes the counts of the last evaluation beside the rows."""
        counts.save(self._local / COUNTS)
        self._publish(COUNTS)

    def close(self) -> None:
        """Closes the record; nothing can be written afterwards."""
        self._record.close()
        if self._temporary:
            self._temporary.cleanup()

    def _publish(self, name: str) -> None:
        if self._temporary:
            self._copy(str(self._local / name), tf.io.gfile.join(self._folder, name))

    @staticmethod
    def _copy(source: str, target: str) -> None:
        if tf.io.gfile.exists(source):
            tf.io.gfile.copy(source, target, overwrite=True)


def check_writable(folder: str) -> None:
    """Makes `folder` and writes to it. Raises InputError where that is not possible."""
    # Workers of one run ask at once, each with a file of its own.
    probe = tf.io.gfile.join(folder, f".writable-{uuid.uuid4().hex}")
    try:
        tf.io.gfile.makedirs(folder)
        with tf.io.gfile.GFile(probe, "w") as file:
            file.write("")
        tf.io.gfile.remove(probe)
    except tf.errors.OpError as error:
        raise InputError(
            f"--model_dir {folder} cannot be written",
            str(error).splitlines()[0][:200],
            "Choose another folder, or give yourself the right to write there.",
        ) from None
