"""Other forms of attention in one operation of PyTorch: another scale, mask or order."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

Variant = tuple[str, Callable[[], Any]]
CLIPPED, BOUNDS = (1e-7, 1e-6, 1e-8, 1e-5), (50.0, 30.0, 20.0, 88.0, 15.0)
"""Where probabilities, and scores on either side, are kept from what is smaller or larger."""
FILLS = (0.0, -1.0, -10.0, -100.0, -1e4, -1e9, -math.inf)


def other_fills(mask: Tensor, run: Callable[[Tensor], Any]) -> Iterator[Variant]:
    """Other numbers where a mask that is added to scores hides positions."""
    hidden = mask < -1e3
    for fill in FILLS if bool(hidden.any()) else ():
        other = torch.where(hidden, torch.full_like(mask, fill), mask)
        yield f"masked with {fill:g}", partial(run, other)


def attention(operation: Any, args: tuple, kwargs: dict, result: Any) -> Iterator[Variant]:
    """Attention in one operation: another scale, mask or order of positions."""
    query, key, value = args[:3]
    mask, causal = kwargs.get("attn_mask"), bool(args[4] if len(args) > 4 else False)
    own = kwargs.get("scale") or 1.0 / math.sqrt(query.shape[-1])

    def run(
        scale: float = own,
        mask: Any = mask,
        causal: bool = causal,
        weigh: Callable[[Tensor], Tensor] = lambda scores: torch.softmax(scores, -1),
    ) -> Any:
        scores = query @ key.transpose(-1, -2) * scale
        if causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        scores = scores if mask is None else scores + mask
        found = weigh(scores) @ value
        return found if isinstance(result, Tensor) else (found, *result[1:])

    for scale in (1.0, own * own, math.sqrt(own), own * math.sqrt(2.0), own / math.sqrt(2.0)):
        if scale != own:
            yield f"attention scaled by {scale:.6g} instead of {own:.6g}", partial(run, scale)
    if mask is not None:
        yield "nothing is masked", partial(run, mask=None)
        yield from other_fills(mask, lambda other: run(mask=other))
    turned = "later positions are seen" if causal else "later positions are masked"
    yield turned, partial(run, causal=not causal)
    for least in CLIPPED:
        yield (
            f"attention is clipped below at {least:g}",
            partial(run, weigh=lambda s, least=least: torch.softmax(s, -1).clamp(least)),
        )
    for most in BOUNDS:
        yield (
            f"scores of attention are clipped at -{most:g} and {most:g}",
            partial(run, weigh=lambda s, most=most: torch.softmax(s.clamp(-most, most), -1)),
        )
