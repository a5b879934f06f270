"""The Swin transformer backbone (the original's `modeling/backbone/swin.py`)."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskformer.model.config import FEATURES, SwinConfig

SHIFT_MASK = -100.0  # added to logits between windows that the cyclic shift brought together


class DropPath(nn.Module):
    """Drops a whole residual branch per sample while training (Huang et al. 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, input: Tensor) -> Tensor:
        """[N,...] -> [N,...]; a kept branch is scaled by 1 / (1 - rate)."""
        if self.rate == 0.0 or not self.training:
            return input
        keep = 1.0 - self.rate
        shape = (input.shape[0],) + (1,) * (input.dim() - 1)
        return input * (input.new_empty(shape).bernoulli_(keep) / keep)


class Mlp(nn.Module):
    """Linear, exact GELU, linear; dropout after both."""

    def __init__(self, dim: int, hidden_dim: int, drop: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))


def relative_position_index(window: int) -> np.ndarray:
    """int64 [window^2, window^2]: row of the bias table for each pair of places in a window."""
    places = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing="ij"))
    places = places.reshape(2, -1)
    offset = places[:, :, None] - places[:, None, :] + window - 1
    return offset[0] * (2 * window - 1) + offset[1]


class WindowAttention(nn.Module):
    """Multi-head attention inside windows, with a learned bias per relative position."""

    def __init__(self, dim: int, num_heads: int, config: SwinConfig) -> None:
        super().__init__()
        window = config.window_size
        self.num_heads = num_heads
        self.scale = config.qk_scale or (dim // num_heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * window - 1) ** 2, num_heads)
        )
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer(
            "relative_position_index", torch.from_numpy(relative_position_index(window))
        )
        self.qkv = nn.Linear(dim, 3 * dim, bias=config.qkv_bias)
        self.attn_drop = nn.Dropout(config.attn_drop_rate)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(config.drop_rate)

    def forward(self, x: Tensor, shift_mask: Tensor | None) -> Tensor:
        """Windows [N*windows, window^2, C], mask [windows, window^2, window^2] or None -> same."""
        count, places, channels = x.shape
        qkv = self.qkv(x).reshape(count, places, 3, self.num_heads, channels // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attention = (q * self.scale) @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.reshape(-1)]
        attention = attention + bias.reshape(places, places, -1).permute(2, 0, 1)
        if shift_mask is not None:
            windows = shift_mask.shape[0]
            attention = attention.reshape(-1, windows, self.num_heads, places, places)
            attention = (attention + shift_mask[:, None]).reshape(count, -1, places, places)
        attention = self.attn_drop(attention.softmax(-1))
        out = (attention @ v).transpose(1, 2).reshape(count, places, channels)
        return self.proj_drop(self.proj(out))


def _partition(x: Tensor, window: int) -> Tensor:
    """[N,H,W,C] -> [N*windows, window^2, C]; H and W are multiples of the window."""
    n, height, width, channels = x.shape
    x = x.reshape(n, height // window, window, width // window, window, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window * window, channels)


def _merge(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """[N*windows, window^2, C] -> [N,H,W,C], the inverse of `_partition`."""
    channels = windows.shape[-1]
    x = windows.reshape(-1, height // window, width // window, window, window, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, channels)


class SwinTransformerBlock(nn.Module):
    """(Shifted) window attention and MLP, pre-norm, each behind a drop path."""

    def __init__(
        self, dim: int, num_heads: int, shift: int, drop_path: float, config: SwinConfig
    ) -> None:
        super().__init__()
        self.window, self.shift = config.window_size, shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, config)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio), config.drop_rate)

    def forward(self, x: Tensor, height: int, width: int, shift_mask: Tensor) -> Tensor:
        """Tokens [N,H*W,C] and the stage's shift mask -> [N,H*W,C]."""
        n, _, channels = x.shape
        shortcut = x
        x = self.norm1(x).reshape(n, height, width, channels)
        # Padding follows the norm: its zeros take part in attention, unmasked.
        pad_bottom, pad_right = -height % self.window, -width % self.window
        x = F.pad(x, (0, 0, 0, pad_right, 0, pad_bottom))
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        windows = self.attn(_partition(x, self.window), shift_mask if self.shift else None)
        x = _merge(windows, self.window, height + pad_bottom, width + pad_right)
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), (1, 2))
        x = x[:, :height, :width].reshape(n, height * width, channels)
        x = shortcut + self.drop_path(x)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchMerging(nn.Module):
    """Joins 2x2 tokens and halves the resolution: [N,H*W,C] -> [N,ceil(H/2)*ceil(W/2),2C]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Tokens of the next stage; an odd side is zero-padded first."""
        n, _, channels = x.shape
        x = x.reshape(n, height, width, channels)
        x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        x = torch.cat(
            [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], dim=-1
        )
        return self.reduction(self.norm(x.reshape(n, -1, 4 * channels)))


def shift_mask(height: int, width: int, window: int) -> np.ndarray:
    """float64 [windows, window^2, window^2]: 0 inside a region of the shifted map, -100 across."""
    shift = window // 2
    rows, columns = -(-height // window) * window, -(-width // window) * window
    region = np.zeros((rows, columns))
    bands = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for i, row_band in enumerate(bands):
        for j, column_band in enumerate(bands):
            region[row_band, column_band] = 3 * i + j
    region = region.reshape(rows // window, window, columns // window, window)
    region = region.transpose(0, 2, 1, 3).reshape(-1, window * window)
    return np.where(region[:, None, :] != region[:, :, None], SHIFT_MASK, 0.0)


class BasicLayer(nn.Module):
    """One stage: blocks whose shift alternates, then patch merging except in the last stage."""

    def __init__(
        self, index: int, drop_paths: list[float], config: SwinConfig, downsample: bool
    ) -> None:
        super().__init__()
        dim = config.embed_dim * 2**index
        self.window = config.window_size
        self.blocks = nn.ModuleList(
            SwinTransformerBlock(
                dim,
                config.num_heads[index],
                0 if number % 2 == 0 else config.window_size // 2,
                drop_path,
                config,
            )
            for number, drop_path in enumerate(drop_paths)
        )
        self.downsample = PatchMerging(dim) if downsample else None

    def forward(self, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Tokens [N,H*W,C] -> (this stage's tokens, the next stage's input)."""
        mask = torch.from_numpy(shift_mask(height, width, self.window)).to(x)
        for block in self.blocks:
            x = block(x, height, width, mask)
        return x, x if self.downsample is None else self.downsample(x, height, width)


class PatchEmbed(nn.Module):
    """Non-overlapping patches to tokens: [N,3,H,W] -> [N,C,ceil(H/4),ceil(W/4)], normalised."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.proj = nn.Conv2d(3, config.embed_dim, config.patch_size, stride=config.patch_size)
        self.norm = nn.LayerNorm(config.embed_dim) if config.patch_norm else None

    def forward(self, x: Tensor) -> Tensor:
        """A map of patch embeddings; the image is zero-padded to whole patches."""
        height, width = x.shape[-2:]
        x = self.proj(F.pad(x, (0, -width % self.patch_size, 0, -height % self.patch_size)))
        if self.norm is not None:
            shape = x.shape
            x = self.norm(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(shape)
        return x


class SwinTransformer(nn.Module):
    """[N,3,H,W] -> {"res2".."res5"}, each with its own norm."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(config)
        self.pos_drop = nn.Dropout(config.drop_rate)
        rates = torch.linspace(0, config.drop_path_rate, sum(config.depths), device="cpu").tolist()
        self.layers = nn.ModuleList()
        for index, depth in enumerate(config.depths):
            first = sum(config.depths[:index])
            self.layers.append(
                BasicLayer(index, rates[first : first + depth], config, downsample=index < 3)
            )
        for index, channels in enumerate(config.out_channels.values()):
            self.add_module(f"norm{index}", nn.LayerNorm(channels))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """All four feature maps, finest first."""
        x = self.patch_embed(x)
        height, width = x.shape[-2:]
        x = self.pos_drop(x.flatten(2).transpose(1, 2))
        features = {}
        for index, name in enumerate(FEATURES):
            out, x = self.layers[index](x, height, width)
            out = getattr(self, f"norm{index}")(out)
            features[name] = out.transpose(1, 2).unflatten(2, (height, width))
            height, width = (height + 1) // 2, (width + 1) // 2
        return features
