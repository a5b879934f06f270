"""Run by `torchrun`: a training whose weights are written to a file.

`OUT DATA BATCH NORMALISATION STEPS` in float64 without dropout, at a learning rate of 1e-6. Images
have 96 pixels: where two targets of a class both vanish at the masks' size, they are equal for the
matching, and rounding alone decides which query learns which.
"""

import dataclasses
import sys
from pathlib import Path

from maskformer.model import zoo
from parity_tests.implementations.trainer import small


def main(out: str, data: str, batch: str, normalisation: str, steps: str) -> None:
    """See the module; the folder's checkpoint is the result."""
    entry = small.entry()
    model = entry.model.replace(predictor={"dropout": 0.0})
    sizes = {"min_sizes_train": (72,), "max_size_train": 96}
    inputs = dataclasses.replace(entry.inputs, **sizes)
    zoo.ENTRIES[small.NAME] = dataclasses.replace(entry, model=model, inputs=inputs)
    from torch_reference.replicas import joined
    from torch_reference.trainer import run

    settings = small.settings(
        Path(data),
        steps=int(steps),
        batch=int(batch),
        dtype="float64",
        normalisation=normalisation,
        eval_every=0,
        checkpoint_every=0,
        solver={"base_lr": 1e-6, "warmup_iters": 0},
    )
    with joined("cpu") as replicas:
        run(settings, Path(out), replicas=replicas)


if __name__ == "__main__":
    main(*sys.argv[1:])
