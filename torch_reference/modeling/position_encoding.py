"""The two-dimensional sine position encoding of DETR, normalised."""

import math

import torch
from torch import Tensor, nn

TEMPERATURE = 10000.0
EPSILON = 1e-6


class PositionEmbeddingSine(nn.Module):
    """Encodes row and column, each with C/2 channels, (y, x) concatenated.

    Positions count from 1, are divided by (last + 1e-6) and scaled to 2 pi; sines and cosines
    alternate (the original's `transformer/position_encoding.py`, with `normalize=True`). Padding is
    encoded like any other place.
    """

    def __init__(self, num_pos_feats: int) -> None:
        super().__init__()
        self.num_pos_feats = num_pos_feats

    def forward(self, x: Tensor) -> Tensor:
        """[N,*,H,W] -> [N,2*num_pos_feats,H,W] in x's dtype, but at least float32, as in the
        original under autocast; only x's shape is read."""
        batch, _, height, width = x.shape
        dtype = torch.promote_types(x.dtype, torch.float32)
        ones = torch.ones((batch, height, width), dtype=dtype, device=x.device)
        y_embed = ones.cumsum(1)
        x_embed = ones.cumsum(2)
        y_embed = y_embed / (y_embed[:, -1:, :] + EPSILON) * (2 * math.pi)
        x_embed = x_embed / (x_embed[:, :, -1:] + EPSILON) * (2 * math.pi)
        channel = torch.arange(self.num_pos_feats, dtype=dtype, device=x.device)
        period = TEMPERATURE ** (2 * torch.div(channel, 2, rounding_mode="floor") / len(channel))
        encoded = []
        for embed in (y_embed, x_embed):
            angle = embed[..., None] / period
            pair = torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=4)
            encoded.append(pair.flatten(3))
        return torch.cat(encoded, dim=3).permute(0, 3, 1, 2)
