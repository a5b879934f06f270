"""Convolution with norm and activation inside, and frozen batch norm, as detectron2 builds them.

State-dict keys (`conv1.weight`, `conv1.norm.running_var`) follow detectron2's `layers/wrappers.py`
and `layers/batch_norm.py`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORM_EPSILON = 1e-5  # torch's own default for LayerNorm, GroupNorm and batch norm
GROUP_NORM_GROUPS = 32  # detectron2 layers/batch_norm.py, get_norm


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics and affine terms are constants: an affine map per channel.

    All four tensors [C] are buffers, so no optimizer sees them.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.full((num_features,), 1.0 - NORM_EPSILON))

    def forward(self, input: Tensor) -> Tensor:
        """[N,C,H,W] -> [N,C,H,W], ``(x - mean) / sqrt(var + 1e-5) * weight + bias``."""
        if input.requires_grad:
            # F.batch_norm would compute gradients of its constants too; this form does not.
            scale = self.weight * (self.running_var + NORM_EPSILON).rsqrt()
            shift = self.bias - self.running_mean * scale
            return input * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)
        return F.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=False,
            eps=NORM_EPSILON,
        )


def get_norm(norm: str, channels: int) -> nn.Module | None:
    """The norm layer named "FrozenBN" or "GN" over `channels`; None for ""."""
    if norm == "FrozenBN":
        return FrozenBatchNorm2d(channels)
    if norm == "GN":
        return nn.GroupNorm(GROUP_NORM_GROUPS, channels, eps=NORM_EPSILON)
    return None


class Conv2d(nn.Conv2d):
    """Convolution [N,C,H,W] -> [N,C',H',W'], then `norm` and `activation` where given.

    Padding is symmetric; the bias is absent where a norm follows unless `bias` says otherwise.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        bias: bool = True,
        norm: str = "",
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            bias=bias,
        )
        self.norm = get_norm(norm, out_channels)
        self.activation = activation

    def forward(self, input: Tensor) -> Tensor:
        """Convolution, norm, activation, in this order."""
        x = super().forward(input)
        if self.norm is not None:
            x = self.norm(x)
        if self.activation is not None:
            x = self.activation(x)
        return x


def msra_fill(conv: nn.Conv2d) -> nn.Conv2d:
    """`conv` with weights N(0, 2 / fan_out) and zero bias (fvcore's c2_msra_fill; ResNet)."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def xavier_fill(conv: nn.Conv2d) -> nn.Conv2d:
    """`conv` with weights U(+-sqrt(3 / fan_in)) and zero bias (fvcore's c2_xavier_fill; heads)."""
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
