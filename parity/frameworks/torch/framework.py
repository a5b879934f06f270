"""PyTorch behind `parity.frameworks.framework.Framework`."""

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from parity.calls import largest_gap
from parity.causes.explain import explain as explain
from parity.causes.explain import mend as mend
from parity.frameworks.torch import training
from parity.frameworks.torch.capture import Recorder
from parity.frameworks.torch.capture import measure_floors as measure_floors
from parity.frameworks.torch.float64 import kept_in as kept_in
from parity.frameworks.torch.float64 import rebuild_constants
from parity.frameworks.torch.weights import variables as variables
from parity.judge import MIXED
from parity.masks import Masks
from parity.names import Naming
from parity.trace import Axes

NAME = "PyTorch"
EXECUTIONS = ("eager",)
ASKED_FOR = ("compile",)
PRECISIONS = (MIXED,)
IMAGES: Mapping[int, str] = {5: "NCDHW", 4: "NCHW"}

trainer = training


def copied(model: torch.nn.Module, dtype: str) -> torch.nn.Module:
    """A copy of the model that computes in `dtype`."""
    return converted(copy.deepcopy(model), dtype)


def converted(model: torch.nn.Module, dtype: str) -> torch.nn.Module:
    """The model itself, made to compute in `dtype`."""
    model = model.to(torch.float32 if dtype == MIXED else getattr(torch, dtype))
    if dtype == "float64":
        rebuild_constants(model)
    return model


def precision(dtype: str) -> AbstractContextManager:
    """A model takes its precision from its weights, but for products in bfloat16."""
    if dtype == MIXED:
        # Weights are moved in between, and a cast that was kept would be that of the old ones.
        return torch.autocast("cpu", torch.bfloat16, cache_enabled=False)
    return nullcontext()


def in_training(model: torch.nn.Module) -> bool:
    """Whether the model is in training mode."""
    return model.training


def modules(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Every module by path."""
    return dict(model.named_modules())


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
    """The recorder of one execution; a compiled program changes none of its results in place."""
    made = Recorder
    if execution == "compile":
        from parity.frameworks.torch import compiled  # which loads the compiler

        made = compiled.Recorder
    return made(model, axes, execution, only=only, clone=copies, masks=masks, naming=naming)


def capture_effects(recorder: Recorder, inputs: tuple | dict, captured: Any) -> dict[str, float]:
    """What reading the taps changes, the largest l2 gap of an output; compiled, the program without
    taps is another one."""
    kind = "same program" if recorder.EXECUTION == "eager" else "production"
    return {kind: largest_gap(captured, recorder.forward(inputs))}
