"""Runs of seconds: a small model on small scenes, in this process or one that may be killed.

`python -m parity_tests.implementations.trainer.small OUT DATA STEPS [KILL_STEP SECONDS]` starts or
continues a run of `settings` and, with the last two, kills itself that long after recording a step.
"""

import dataclasses
import os
import signal
import sys
import threading
from pathlib import Path

from maskformer.model import zoo
from maskformer.runs.run_settings import RunSettings

NAME = "scenes_tiny"


def entry() -> zoo.Entry:
    """`scenes_tiny` at 64 pixels, with dropout, whose random state must be continued, too."""
    usual = zoo.get(NAME)
    predictor = {"num_queries": 12, "dec_layers": 2, "dropout": 0.1}
    model = usual.model.replace(
        predictor=predictor, inference={"object_mask_threshold": 0.2, "overlap_threshold": 0.1}
    )
    sizes = {"min_size_test": 48, "max_size_test": 64, "max_size_train": 64}
    inputs = dataclasses.replace(usual.inputs, min_sizes_train=(32, 40, 48), **sizes)
    return dataclasses.replace(usual, model=model, inputs=inputs)


def settings(data: Path, **changes) -> RunSettings:
    """Eight steps of two images with a checkpoint after every third."""
    values = {"steps": 8, "batch": 2, "capacity": 12, "eval_every": 4, "checkpoint_every": 3}
    return RunSettings(NAME, str(data), **{**values, **changes})


def main(out: str, data: str, steps: str, kill_step: str = "0", seconds: str = "0") -> None:
    """See the module."""
    zoo.ENTRIES[NAME] = entry()
    from torch_reference.trainer import run

    def progress(step: int, split: str, values: object) -> None:
        if step == int(kill_step) and split == "train":
            threading.Timer(float(seconds), os.kill, (os.getpid(), signal.SIGKILL)).start()

    chosen = settings(Path(data), steps=int(steps), checkpoint_every=2)
    run(chosen, Path(out), resume=True, progress=progress)


if __name__ == "__main__":
    main(*sys.argv[1:])
