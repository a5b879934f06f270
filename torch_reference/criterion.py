"""The training loss of mask classification; owns the class weights that the state dict carries."""

import torch
from torch import nn

from maskformer.config import ModelConfig


class SetCriterion(nn.Module):
    """Holds `empty_weight` [K+1]: ones, and the no-object weight last."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        empty_weight = torch.ones(config.num_classes + 1)
        empty_weight[-1] = config.loss.no_object_weight
        self.register_buffer("empty_weight", empty_weight)
