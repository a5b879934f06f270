"""Trains a MaskFormer in PyTorch, in one process or under `torchrun`.

Example:

  python -m torch_reference.train --config scenes_tiny --data runs/scenes --out runs/torch

The folder receives `run.json`, `metrics.jsonl`, TensorBoard files and checkpoints
(docs/training.md). `--resume` continues a run that was interrupted, bit for bit.
"""

import argparse
import dataclasses
import importlib.metadata
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from maskformer.runs.run_record import has_run, read_run
from maskformer.runs.run_settings import DTYPES, NORMALISATIONS, RunSettings, settle, solver_changes
from parity.errors import InputError
from parity.provenance import git_state

PACKAGES = ("torch", "numpy", "scipy", "pillow", "safetensors")
SECONDS_BETWEEN_LINES = 5.0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    described, _, example = __doc__.partition("Example:")
    found = argparse.ArgumentParser(
        prog="python -m torch_reference.train",
        description=described.strip(),
        epilog="Example:" + example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add("--out", type=Path, required=True, help="folder of the run")
    add("--resume", action="store_true", help="continue the run in --out, or start it")
    add("--config", help="name of a zoo entry, or absolute path of a YAML file")
    add("--data", help="folder of a data set")
    add("--steps", type=int, help="updates (default: the config's)")
    add("--batch", type=int, help="images per update, over all processes (default: the config's)")
    add("--seed", type=int, help="of data, initialisation and dropout (default: 0)")
    add("--dtype", choices=DTYPES, help="of the model (default: float32)")
    add("--capacity", type=int, help="targets per image (default: the number of queries)")
    add("--eval-every", type=int, help="steps; 0: at the end only (default)")
    add("--checkpoint-every", type=int, help="steps; 0: at the end only (default)")
    add("--record-every", type=int, help="steps between rows of the record (default: 1)")
    add("--keep", type=int, help="checkpoints that stay (default: 3)")
    add("--initial", help="seeded:N, or a checkpoint of the model or its backbone")
    add("--normalisation", choices=NORMALISATIONS, help="of losses over processes")
    add("--micro-batches", type=int, help="parts of a batch, one after the other (default: 1)")
    add("--train-split", help="split to train on, or the beginning of its name (default: train)")
    add("--eval-split", help="split to evaluate on (default: val)")
    add(
        "--solver",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another value of a solver setting, such as base_lr=0.001; may be repeated",
    )
    add("--threads", type=int, default=0, help="per process (default: the cores, shared)")
    add("--workers", type=int, default=0, help="processes that read data (default: 0)")
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    add("--command", help="what runs this again, for the record (default: this command line)")
    return found


def settings_from(arguments: argparse.Namespace) -> RunSettings:
    """The settings of the run: those that are given, the others of the interrupted run or defaults.

    Raises InputError for settings that are missing, wrong, or not those of the run in `--out`.
    """
    names = [item.name for item in dataclasses.fields(RunSettings)]
    given = {
        name: value
        for name in names
        if name != "solver" and (value := getattr(arguments, name)) is not None
    }
    if arguments.solver:
        given["solver"] = solver_changes(arguments.solver)
    before = None
    if arguments.resume and has_run(arguments.out):
        before = RunSettings.from_dict(read_run(arguments.out).description["settings"])
    return settle(given, before)


class Lines:
    """Prints a line of progress every few seconds, and one for each evaluation."""

    def __init__(self, total: int) -> None:
        """`total` is the run's number of steps."""
        self._total = total
        self._first: tuple[float, int] | None = None
        self._printed = 0.0

    def __call__(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Tells a row of the record."""
        if split == "eval":
            text = ", ".join(f"{name} {value:.2f}" for name, value in values.items())
            print(f"step {step}: {text}", flush=True)
            return
        now = time.perf_counter()
        if self._first is None:
            self._first = (now, step)
        if now - self._printed < SECONDS_BETWEEN_LINES and step != self._total:
            return
        self._printed = now
        losses = ", ".join(f"{k} {values[k]:.4g}" for k in ("loss", *_final_losses(values)))
        print(
            f"step {step} of {self._total}: {losses}; {values['step_seconds']:.2f} s a step, "
            f"{100 * values['data_wait_share']:.0f} % waiting for data{self._left(now, step)}",
            flush=True,
        )

    def _left(self, now: float, step: int) -> str:
        began, first = self._first
        if step == first or step == self._total:
            return ""
        minutes = (now - began) / (step - first) * (self._total - step) / 60
        return f"; {minutes:.1f} min left"


def _final_losses(values: Mapping[str, float]) -> list[str]:
    return [k for k in ("loss_ce", "loss_mask", "loss_dice", "loss_sem_seg") if k in values]


def threads_per_process(wanted: int) -> int:
    """`--threads`, or the cores shared by the processes of this machine."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return wanted or max(1, len(os.sched_getaffinity(0)) // local)


def command_line(words: Sequence[str]) -> str:
    """The shell's words of this program, with the launcher that shares it among processes."""
    processes = os.environ.get("LOCAL_WORLD_SIZE")
    launcher = ["torchrun", "--nproc-per-node", processes] if processes else ["python"]
    return shlex.join([*launcher, "-m", "torch_reference.train", *words])


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 2 after three lines about a user's mistake."""
    arguments = parser().parse_args(words)
    try:
        settings = settings_from(arguments)
        # Heavy imports after the checks that need none.
        from torch_reference.replicas import joined
        from torch_reference.trainer import Machine, Origin, run

        device = check_device(arguments.device)
        machine = Machine(device, threads_per_process(arguments.threads), arguments.workers)
        with joined(device) as replicas:
            run(
                settings,
                arguments.out,
                resume=arguments.resume,
                machine=machine,
                replicas=replicas,
                origin=Origin(
                    {name: importlib.metadata.version(name) for name in PACKAGES},
                    git_state(Path(__file__).parent)["commit"],
                    arguments.command or command_line(sys.argv[1:] if words is None else words),
                ),
                progress=Lines(settings.steps),
            )
    except InputError as error:
        print(error, file=sys.stderr, flush=True)
        return 2
    return 0


def check_device(name: str) -> str:
    """The device, one GPU per process under `torchrun`. Raises InputError where it is not there."""
    import torch

    if name == "cpu":
        return name
    if name != "cuda" or not torch.cuda.is_available():
        raise InputError(
            f"the device {name!r} is not there",
            f"this PyTorch sees {torch.cuda.device_count()} GPUs",
            "Give --device cpu, or cuda on a machine with a GPU and a PyTorch built for it.",
        )
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    torch.cuda.set_device(device)
    return device


if __name__ == "__main__":
    sys.exit(main())
