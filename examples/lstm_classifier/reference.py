"""The reference: an LSTM that classifies texts, of PyTorch's own layers."""

import numpy as np
import torch
from torch import nn

from parity.frameworks.torch.weights import vary

WORDS, WIDTH, UNITS, CLASSES, DROPOUT = 50, 12, 8, 5, 0.1


class Classifier(nn.Module):
    """Words to classes: tokens [B, T] to logits [B, C], by the mean of what both directions say."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.lstm = nn.LSTM(WIDTH, UNITS, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(DROPOUT)
        self.classifier = nn.Linear(2 * UNITS, CLASSES)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(self.embedding(tokens))
        return self.classifier(self.dropout(states.mean(1)))


def reference(seed: int = 0) -> Classifier:
    """The model with random weights, in eval mode."""
    torch.manual_seed(seed)
    return vary(Classifier().eval(), seed)


def texts(count: int = 6, length: int = 9, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random tokens int64 [B, T], and the class of each text, int64 [B]."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, WORDS, (count, length)), rng.integers(0, CLASSES, count)
