"""The published optimizers, with parameter groups from module kinds and full-model clipping.

Mirrors the rules of the original's `train_net.py`, `Trainer.build_optimizer`.
"""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import nn

from maskformer.model.solver import SolverConfig, parameter_group

KINDS = (nn.LayerNorm, nn.GroupNorm, nn.Embedding)


class FullModelClipping:
    """Mix-in before a torch optimizer: each step first scales all gradients by one norm.

    Under data parallelism the gradients are already reduced when the optimizer steps.
    """

    clip_value: float | None = None

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Clip with `torch.nn.utils.clip_grad_norm_`, then update."""
        if self.clip_value is not None:
            parameters = itertools.chain(*(group["params"] for group in self.param_groups))
            nn.utils.clip_grad_norm_(parameters, self.clip_value)
        return super().step(closure)


class AdamW(FullModelClipping, torch.optim.AdamW):
    """`torch.optim.AdamW` with full-model clipping."""


class SGD(FullModelClipping, torch.optim.SGD):
    """`torch.optim.SGD` with full-model clipping."""


def build_optimizer(model: nn.Module, solver: SolverConfig) -> AdamW | SGD:
    """The published optimizer of `model`: one group per trainable parameter, named by its key."""
    groups = [
        {"params": [parameter], "name": path, "lr": lr, "weight_decay": decay}
        for path, parameter, (lr, decay) in _grouped(model, solver)
    ]
    if solver.optimizer == "ADAMW":
        optimizer = AdamW(groups, lr=solver.base_lr, betas=solver.betas, eps=solver.eps)
    else:
        optimizer = SGD(groups, lr=solver.base_lr, momentum=solver.momentum)
    optimizer.clip_value = solver.clip_value if solver.clip_type == "full_model" else None
    return optimizer


def rates_of_update(optimizer: AdamW | SGD) -> dict[str, float]:
    """The largest rate by which an update would move a parameter of the backbone, and one of the
    rest (`head`), as the optimizer has it now."""
    found: dict[str, float] = {}
    for group in optimizer.param_groups:
        part = "backbone" if group["name"].startswith("backbone.") else "head"
        found[part] = max(found.get(part, 0.0), float(group["lr"]))
    return found


def parameter_groups(model: nn.Module, solver: SolverConfig) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of every trainable parameter, by state-dict key."""
    return {path: group for path, _, group in _grouped(model, solver)}


def _grouped(
    model: nn.Module, solver: SolverConfig
) -> Iterator[tuple[str, nn.Parameter, tuple[float, float]]]:
    """Trainable parameters in the order of `named_modules`, a shared one once."""
    seen: set[nn.Parameter] = set()
    for module_path, module in model.named_modules():
        kind = next((base.__name__ for base in KINDS if isinstance(module, base)), "")
        for name, parameter in module.named_parameters(module_path, recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                yield name, parameter, parameter_group(kind, name, solver)
