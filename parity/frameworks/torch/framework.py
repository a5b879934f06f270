"""PyTorch behind `parity.frameworks.framework.Framework`."""

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from parity.calls import largest_gap
from parity.causes.explain import explain as explain
from parity.frameworks.torch import training
from parity.frameworks.torch.capture import Recorder
from parity.frameworks.torch.capture import measure_floors as measure_floors
from parity.frameworks.torch.float64 import kept_in as kept_in
from parity.frameworks.torch.float64 import rebuild_constants
from parity.masks import Masks
from parity.names import Naming
from parity.trace import Axes
from parity.weights import SAME, Variable

NAME = "PyTorch"
EXECUTIONS = ("eager",)
IMAGES: Mapping[int, str] = {5: "NCDHW", 4: "NCHW"}

trainer = training


def copied(model: torch.nn.Module, dtype: str) -> torch.nn.Module:
    """A copy of the model that computes in `dtype`."""
    return converted(copy.deepcopy(model), dtype)


def converted(model: torch.nn.Module, dtype: str) -> torch.nn.Module:
    """The model itself, made to compute in `dtype`."""
    model = model.to(getattr(torch, dtype))
    if dtype == "float64":
        rebuild_constants(model)
    return model


def precision(dtype: str) -> AbstractContextManager:
    """A model takes its precision from its weights, not from its surroundings."""
    return nullcontext()


def in_training(model: torch.nn.Module) -> bool:
    """Whether the model is in training mode."""
    return model.training


def modules(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Every module by path."""
    return dict(model.named_modules())


def variables(model: torch.nn.Module) -> dict[str, Variable]:
    """Every float tensor of the state dict by key."""
    return {
        key: _variable(key, value)
        for key, value in model.state_dict().items()
        if value.is_floating_point()
    }


def _variable(key: str, tensor: torch.Tensor) -> Variable:
    def assign(array: np.ndarray) -> None:
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(array)))

    owner, _, name = key.rpartition(".")
    return Variable(owner, name, SAME, tuple(tensor.shape), tensor.detach().numpy, assign)


def recorder(
    model: torch.nn.Module,
    axes: Axes,
    execution: str,
    *,
    only: str | None = None,
    copies: bool = True,
    naming: Naming | None = None,
    masks: Masks | None = None,
) -> Recorder:
    """The recorder of eager execution."""
    return Recorder(model, axes, execution, only=only, clone=copies, masks=masks, naming=naming)


def capture_effects(recorder: Recorder, inputs: tuple | dict, captured: Any) -> dict[str, float]:
    """What reading the taps changes, the largest l2 gap of an output."""
    return {"same program": largest_gap(captured, recorder.plain(inputs))}
