"""One training step of a PyTorch model; see `parity.frameworks.framework.Trainer`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from parity.calls import each_array, fill, flatten, is_array
from parity.frameworks.shared.recipes import Recipe
from parity.frameworks.torch.gradients import GradientRecorder as GradientRecorder
from parity.gradients import terms_of


def trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Every parameter that requires a gradient, by its key in the state dict."""
    return {key: one for key, one in model.named_parameters() if one.requires_grad}


@contextmanager
def training(model: torch.nn.Module, inputs: tuple | dict) -> Iterator[tuple | dict]:
    """The model in training mode; every module is in its own mode again afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        yield inputs
    finally:
        for module, mode in modes:
            module.training = mode


def differentiated(
    loss: Callable[..., Any], outputs: Any, targets: tuple, execution: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The terms of the loss, and the gradient of their sum by each float output."""
    template, arrays = flatten(outputs, is_array, records=True)
    leaves = {name: torch.tensor(array) for name, array in arrays}
    for leaf in leaves.values():
        leaf.requires_grad_(leaf.is_floating_point())
    given = fill(template, lambda slot: leaves[slot.name])
    with torch.enable_grad():
        terms = terms_of(loss(given, *map(tensor, targets)))
        total = sum(terms.values())
    wanted = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    found: tuple = (None,) * len(wanted)
    if wanted and torch.is_tensor(total) and total.requires_grad:
        found = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    gradients = {
        name: gradient.numpy()
        for name, gradient in zip(wanted, found, strict=True)
        if gradient is not None
    }
    return {name: np.asarray(float(term.detach())) for name, term in terms.items()}, gradients


def tensor(value: Any) -> Any:
    """A structure with tensors in place of its arrays."""
    return each_array(value, lambda array: torch.from_numpy(np.array(array)))


def optimizer(make: Callable[[Any], Any], model: torch.nn.Module) -> Any:
    """What `make` makes of the model's named parameters that are trained."""
    return make(list(trained(model).items()))


def update(
    optimizer: Any,
    model: torch.nn.Module,
    gradients: Mapping[str, np.ndarray | None],
    execution: str = "eager",
) -> dict[str, np.ndarray]:
    """One update by gradients by key, None for a parameter that has none; what clipping leaves."""
    parameters = trained(model)
    for key, parameter in parameters.items():
        gradient = gradients.get(key)
        parameter.grad = None if gradient is None else torch.tensor(gradient).to(parameter.dtype)
    try:
        optimizer.step()
        return {
            key: parameter.grad.numpy().copy()
            for key, parameter in parameters.items()
            if parameter.grad is not None
        }
    finally:
        for parameter in parameters.values():
            parameter.grad = None


def arrive(optimizer: Any, step: int) -> None:
    """As after `step` updates, whose moments are those that it holds."""
    for state in optimizer.state.values():
        if torch.is_tensor(state.get("step")):
            state["step"].fill_(float(step))
        elif "step" in state:
            state["step"] = step


def rates(optimizer: Any, step: int) -> list[float] | None:
    """The learning rate of each group now: torch's schedules set it before an update."""
    return [float(group["lr"]) for group in optimizer.param_groups]


def recipe(optimizer: Any, model: torch.nn.Module) -> tuple[Recipe, dict] | None:
    """The rule of SGD, Adam or AdamW, and the rate and decay of each parameter by key."""
    names = {id(parameter): key for key, parameter in trained(model).items()}
    groups = {
        names[id(parameter)]: (float(group["lr"]), float(group["weight_decay"]))
        for group in optimizer.param_groups
        for parameter in group["params"]
        if id(parameter) in names
    }
    first = optimizer.param_groups[0]
    if isinstance(optimizer, torch.optim.Adam):
        decoupled = isinstance(optimizer, torch.optim.AdamW) or bool(
            first.get("decoupled_weight_decay")
        )
        rule = Recipe(
            "adam",
            0.0,
            0.0,
            coupled=not decoupled,
            betas=tuple(map(float, first["betas"])),
            epsilon=float(first["eps"]),
            maximal=bool(first["amsgrad"]),
        )
    elif isinstance(optimizer, torch.optim.SGD):
        rule = Recipe(
            "sgd",
            0.0,
            0.0,
            coupled=True,
            momentum=float(first["momentum"]),
            dampening=float(first["dampening"]),
            nesterov=bool(first["nesterov"]),
        )
    else:
        return None
    return rule, groups
