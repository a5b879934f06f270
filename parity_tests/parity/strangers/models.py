"""Audits small models as strangers write them, float64 alone, for tests."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from parity.audits import Pair, audit
from parity.frameworks.torch.weights import vary
from parity.names import Names


def compared(
    reference: nn.Module,
    port: Callable[[], Any],
    inputs: tuple,
    modules: dict[str, str],
    more: dict[str, Any] | None = None,
    **pair: Any,
) -> dict[str, Any]:
    """The result of an audit; `modules` and `more` are `Names`', everything else the pair's."""
    torch.manual_seed(0)
    executions = pair.pop("executions", ())
    names = Names(modules=modules, **(more or {}))
    made = Pair(reference.eval(), port, inputs, names=names, **pair)
    return audit(made, executions=executions, quiet=True).to_json()


def varied(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A reference in eval mode whose biases and norms are no zeros and ones."""
    torch.manual_seed(seed)
    return vary(build().eval(), seed)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Random numbers that float32 holds."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def places(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Path and cause of each place, without the line of source."""
    return [
        (one["path"], (one["cause"] or "none").rpartition(": ")[2])
        for one in result["localisations"]
    ]


def claims(result: dict[str, Any]) -> list[str]:
    """The claims that fail."""
    return [one["id"] for one in result["claims"] if one["verdict"] == "fails"]
