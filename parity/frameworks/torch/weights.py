"""The weights of a PyTorch model: read, assigned, and drawn for one that is not trained."""

from collections.abc import Mapping

import numpy as np
import torch

from parity.weights import SAME, Variable

SPREAD = 0.3


def vary(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give every tensor whose numbers are all the same other ones, each up to `SPREAD` away.

    As they are built, biases are zeros and scales are ones: a bias that is not loaded, or two norms
    that are swapped, would compute the same. What is no weight stays: a buffer that is not in the
    state dict, such as a table, and one of a single number, such as a scale. The model is changed
    and returned; the same seed gives the same weights.
    """
    rng = np.random.default_rng(seed)
    kept = {id(one) for one in model.state_dict(keep_vars=True).values()}
    buffers = [one for one in model.buffers() if id(one) in kept and one.numel() > 1]
    with torch.no_grad():
        for tensor in [*model.parameters(), *buffers]:
            if (
                tensor.is_floating_point()
                and tensor.numel()
                and bool((tensor == tensor.reshape(-1)[0]).all())
            ):
                moves = rng.uniform(-SPREAD, SPREAD, tuple(tensor.shape))
                tensor.add_(torch.from_numpy(moves).to(tensor.dtype))
    return model


def variables(model: torch.nn.Module) -> dict[str, Variable]:
    """Every float tensor of the state dict by key."""
    modules = dict(model.named_modules())
    return {
        key: _variable(modules, key, value)
        for key, value in model.state_dict().items()
        if value.is_floating_point()
    }


def _variable(modules: Mapping[str, torch.nn.Module], key: str, tensor: torch.Tensor) -> Variable:
    def assign(array: np.ndarray) -> None:
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(array)))

    owner, _, name = key.rpartition(".")
    return Variable(
        owner,
        name,
        SAME,
        tuple(tensor.shape),
        tensor.detach().numpy,
        assign,
        of_known_kind=owner not in modules or _is_torchs(type(modules[owner])),
    )


def _is_torchs(kind: type[torch.nn.Module]) -> bool:
    """Whether it is one of PyTorch's layers, or made of one."""
    bases = [one for one in kind.__mro__ if one is not torch.nn.Module]
    return any(one.__module__.startswith("torch.nn.") for one in bases)
