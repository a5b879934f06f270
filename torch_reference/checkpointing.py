"""Checkpoints of a training that continue it exactly, written so that no kill leaves half of one.

A checkpoint is a folder `step_000000100` with `model.safetensors` (the weights, usable by itself),
`training.safetensors` (optimizer and random states) and `checkpoint.json` (step, position in the
data, and the sha256 of both files). It is written under another name and renamed when complete.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from parity.errors import InputError
from parity.files import replacing
from parity.reading.content import read_json

SCHEMA = "maskformer-replication/torch-checkpoint/1"
MODEL, TRAINING, DESCRIPTION = "model.safetensors", "training.safetensors", "checkpoint.json"
_PREFIX = "step_"


@dataclass(frozen=True)
class Checkpoint:
    """The state after `step` updates.

    `model`: the state dict; `optimizer`: its state tensors by "KEY//NAME", KEY the parameter's
    state-dict key; `random`: one random state per process; `plan`: of the `BatchPlan`; `threads`:
    of each process, on which rounding depends.
    """

    step: int
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    random: tuple[Tensor, ...]
    plan: Mapping[str, Any]
    threads: int


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Writes the checkpoint below `folder`, removes all but the last `keep`; returns its folder.

    Raises InputError where the disk is full or cannot be written; nothing of it stays then.
    """
    target = folder / f"{_PREFIX}{checkpoint.step:09d}"
    training = {f"optimizer/{key}": value for key, value in checkpoint.optimizer.items()}
    training |= {f"random/{rank}": value for rank, value in enumerate(checkpoint.random)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        with replacing(target) as temporary:
            temporary.mkdir()
            for name, tensors in ((MODEL, checkpoint.model), (TRAINING, training)):
                contiguous = {key: value.contiguous() for key, value in tensors.items()}
                save_file(contiguous, temporary / name)
            description = {
                "schema": SCHEMA,
                "step": checkpoint.step,
                "plan": checkpoint.plan,
                "threads": checkpoint.threads,
                "sha256": {name: _sha256(temporary / name) for name in (MODEL, TRAINING)},
            }
            text = json.dumps(description, indent=1)
            (temporary / DESCRIPTION).write_text(text, encoding="utf-8")
            for name in (MODEL, TRAINING, DESCRIPTION):
                _flush(temporary / name)
            if target.exists():
                _remove(target)
        _flush(folder)
        for old in list_checkpoints(folder)[:-keep]:
            _remove(old)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"the checkpoint of step {checkpoint.step} cannot be written",
            f"{target}: {error}",
            "Free some space, or choose another folder, and resume the run.",
        ) from None
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """The folders of complete checkpoints, oldest first; their contents are not looked at."""
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir())


def load(path: Path) -> Checkpoint:
    """The checkpoint in a folder. Raises InputError where a file is missing or was changed."""
    try:
        description = read_json(path / DESCRIPTION)
        if description["schema"] != SCHEMA:
            raise ValueError(f"schema {description['schema']!r}")
        for name, expected in description["sha256"].items():
            found = _sha256(path / name)
            if found != expected:
                raise ValueError(f"{name} has the sha256 {found[:12]}..., not {expected[:12]}...")
        training = load_file(path / TRAINING)
        return Checkpoint(
            description["step"],
            load_file(path / MODEL),
            {k.removeprefix("optimizer/"): v for k, v in training.items() if k[0] == "o"},
            tuple(training[f"random/{rank}"] for rank in range(sum(k[0] == "r" for k in training))),
            description["plan"],
            description["threads"],
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(
            f"{path} is not a whole checkpoint",
            f"{type(error).__name__}: {error}",
            "An older one may be: resuming takes the newest that is whole.",
        ) from None


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, None without any; warns of each that is skipped."""
    for path in reversed(list_checkpoints(folder)):
        try:
            return load(path)
        except InputError as error:
            print(f"warning: skipped: {error}", file=sys.stderr, flush=True)
    return None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as `Checkpoint.optimizer` holds it; groups have one named parameter."""
    return {
        f"{group['name']}//{name}": value
        for group in optimizer.param_groups
        for name, value in optimizer.state.get(group["params"][0], {}).items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Gives an optimizer of the same groups the state of `optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    names = [group["name"] for group in optimizer.param_groups]
    numbers = {name: number for number, name in enumerate(names)}
    for key, value in tensors.items():
        path, _, name = key.rpartition("//")
        state.setdefault(numbers[path], {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _remove(path: Path) -> None:
    """Removes a folder that must never be seen half removed."""
    hidden = path.with_name(f".{path.name}.removed")
    shutil.rmtree(hidden, ignore_errors=True)
    os.replace(path, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """What a killed process left: this folder has one writer."""
    for path in (*folder.glob(f".{_PREFIX}*.partial"), *folder.glob(f".{_PREFIX}*.removed")):
        shutil.rmtree(path, ignore_errors=True)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    """Waits until a file or folder is on the disk, for the case that the machine stops."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
