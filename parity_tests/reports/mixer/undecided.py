"""A net that loses half of its digits, beside a port that adds in another order: not decided.

undecided.json is what `parity audit --pair` said of `pair`, as pair.py has it, with `--json`.
"""

import numpy as np
import torch
from torch import nn

import parity

FAR = 1e8


class Sums(nn.Linear):
    pass


class OtherSums(nn.Linear):
    """The same sums, one term after another from the last to the first."""

    def forward(self, x):
        found = self.bias
        for index in reversed(range(x.shape[-1])):
            found = found + x[..., index : index + 1] * self.weight[:, index]
        return found


class Raised(nn.Module):
    def forward(self, x):
        return x * FAR


class Wave(nn.Module):
    def forward(self, x):
        return x.sin()


class Net(nn.Module):
    def __init__(self, sums):
        super().__init__()
        self.sums, self.raised, self.wave = sums, Raised(), Wave()

    def forward(self, x):
        return self.wave(self.raised(self.sums(x)))


torch.manual_seed(0)
rows = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
reference, port = Net(Sums(64, 8)).eval(), Net(OtherSums(64, 8)).eval()
port.load_state_dict(reference.state_dict())
pair = parity.Pair(reference, port, (rows,), names=parity.Names())
