"""Feeds given dropout masks to a PyTorch model, in place of its random numbers."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from parity.masks import Keeps

_ATEN = torch.ops.aten


class FedMasks(TorchDispatchMode):
    """Inside it every Bernoulli draw, so every dropout on the CPU, takes what `keeps` gives."""

    def __init__(self, keeps: Keeps) -> None:
        super().__init__()
        self.keeps = keeps

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if operation is _ATEN.bernoulli_.float:
            tensor, keep = args[0], args[1] if len(args) > 1 else 0.5
            kept = self.keeps(tuple(tensor.shape), keep)
            # PyTorch divides the mask by `keep`: that of one that drops nothing becomes 1.
            return tensor.fill_(keep) if kept is None else tensor.copy_(torch.from_numpy(kept))
        return operation(*args, **(kwargs or {}))
