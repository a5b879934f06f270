"""How far the reference's optimizer moves parameters by given gradients."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from maskformer.model.solver import SolverConfig


def movement_gap(ours: np.ndarray, exact: np.ndarray) -> float:
    """||ours - exact|| / ||exact||, infinite where it is no number."""
    size = float(np.linalg.norm(exact)) or 1.0
    gap = float(np.linalg.norm(ours - exact)) / size
    return gap if np.isfinite(gap) else np.inf


def reference_movement(
    solver: "SolverConfig",
    place: int,
    gradients: np.ndarray,
    sizes: Sequence[int] | None = None,
    *,
    late: int = 0,
    clip: bool = True,
    nesterov: bool = False,
) -> np.ndarray:
    """How far torch's optimizer moves zeros [N] from iteration `place` on, in the gradients' dtype.

    Args:
        gradients: [updates,N].
        sizes: of the parameters that share the N elements; of one alone where None.
        late: by how many iterations its rates are behind.
        clip: gradients are clipped as they should be, else brought to the clip's length.
        nesterov: of SGD.
    """
    import torch

    from maskformer.model.solver import learning_rate
    from torch_reference.optimizer import build_optimizer

    sizes = sizes or (gradients.shape[1],)
    dtype = torch.from_numpy(gradients).dtype
    module = torch.nn.Module()
    module.weights = torch.nn.ParameterList(torch.zeros(size, dtype=dtype) for size in sizes)
    optimizer = build_optimizer(module, solver)
    optimizer.clip_value = optimizer.clip_value if clip else None
    bases = [group["lr"] for group in optimizer.param_groups]
    for weight in module.weights if solver.optimizer == "ADAMW" else ():
        # As after so many updates whose gradients were zero.
        optimizer.state[weight] = {
            "step": torch.tensor(float(place)),
            "exp_avg": torch.zeros_like(weight),
            "exp_avg_sq": torch.zeros_like(weight),
        }
    for step, gradient in enumerate(gradients, start=place):
        if not clip:
            gradient = gradient * solver.clip_value / (np.linalg.norm(gradient) + 1e-6)
        own = torch.from_numpy(gradient.copy()).split(list(sizes))
        for weight, one in zip(module.weights, own, strict=True):
            weight.grad = one
        for group, base in zip(optimizer.param_groups, bases, strict=True):
            group["lr"] = learning_rate(solver, max(step - late, 0), base)
            group["nesterov"] = nesterov
        optimizer.step()
    return torch.cat(list(module.weights)).detach().numpy()
