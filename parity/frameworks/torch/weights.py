"""Random weights for a PyTorch model that is built, not trained."""

import numpy as np
import torch

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
                and bool((tensor == tensor.view(-1)[0]).all())
            ):
                moves = rng.uniform(-SPREAD, SPREAD, tuple(tensor.shape))
                tensor.add_(torch.from_numpy(moves).to(tensor.dtype))
    return model
