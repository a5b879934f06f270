"""ResNet backbones: detectron2's `modeling/backbone/resnet.py` and its DeepLab variant."""

from torch import Tensor, nn
from torch.nn import functional as F

from maskformer.model.config import FEATURES, ResNetConfig
from torch_reference.layers import Conv2d, msra_fill


class BasicStem(nn.Module):
    """7x7 convolution of stride 2, ReLU, 3x3 max pool of stride 2: [N,3,H,W] -> [N,C,H/4,W/4]."""

    def __init__(self, out_channels: int, norm: str) -> None:
        super().__init__()
        self.conv1 = msra_fill(
            Conv2d(3, out_channels, 7, stride=2, padding=3, bias=False, norm=norm)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features at stride 4."""
        x = F.relu(self.conv1(x))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


class DeepLabStem(nn.Module):
    """Three 3x3 convolutions, the first of stride 2, then max pool (R101c)."""

    def __init__(self, out_channels: int, norm: str) -> None:
        super().__init__()
        half = out_channels // 2
        self.conv1 = msra_fill(Conv2d(3, half, 3, stride=2, padding=1, bias=False, norm=norm))
        self.conv2 = msra_fill(Conv2d(half, half, 3, padding=1, bias=False, norm=norm))
        self.conv3 = msra_fill(Conv2d(half, out_channels, 3, padding=1, bias=False, norm=norm))

    def forward(self, x: Tensor) -> Tensor:
        """Features at stride 4."""
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = F.relu(self.conv3(x))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a residual connection (ResNet-18)."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, norm: str) -> None:
        super().__init__()
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = msra_fill(
                Conv2d(in_channels, out_channels, 1, stride=stride, bias=False, norm=norm)
            )
        self.conv1 = msra_fill(
            Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False, norm=norm)
        )
        self.conv2 = msra_fill(
            Conv2d(out_channels, out_channels, 3, padding=1, bias=False, norm=norm)
        )

    def forward(self, x: Tensor) -> Tensor:
        """ReLU(x or its projection + branch)."""
        out = self.conv2(F.relu(self.conv1(x)))
        return F.relu(out + (x if self.shortcut is None else self.shortcut(x)))


class BottleneckBlock(nn.Module):
    """1x1, 3x3, 1x1 convolutions with a residual connection (ResNet-50 and deeper).

    The stride sits in the 3x3 convolution unless `stride_in_1x1`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        norm: str,
        stride_in_1x1: bool,
        dilation: int,
    ) -> None:
        super().__init__()
        width = out_channels // 4
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = msra_fill(
                Conv2d(in_channels, out_channels, 1, stride=stride, bias=False, norm=norm)
            )
        self.conv1 = msra_fill(
            Conv2d(in_channels, width, 1, stride=stride_1x1, bias=False, norm=norm)
        )
        self.conv2 = msra_fill(
            Conv2d(
                width,
                width,
                3,
                stride=stride_3x3,
                padding=dilation,
                dilation=dilation,
                bias=False,
                norm=norm,
            )
        )
        self.conv3 = msra_fill(Conv2d(width, out_channels, 1, bias=False, norm=norm))

    def forward(self, x: Tensor) -> Tensor:
        """ReLU(x or its projection + branch)."""
        out = F.relu(self.conv1(x))
        out = F.relu(self.conv2(out))
        out = self.conv3(out)
        return F.relu(out + (x if self.shortcut is None else self.shortcut(x)))


def _stage(config: ResNetConfig, index: int, in_channels: int) -> nn.ModuleList:
    """The blocks of stage res{index + 2}."""
    out_channels = config.out_channels[FEATURES[index]]
    dilation = (1, 1, config.res4_dilation, config.res5_dilation)[index]
    blocks = []
    for number in range(config.blocks[index]):
        stride = 2 if number == 0 and index > 0 and dilation == 1 else 1
        # Only the DeepLab builder reads the multi-grid, and only in res5.
        multi_grid = config.stem == "deeplab" and index == 3
        block_dilation = dilation * (config.res5_multi_grid[number] if multi_grid else 1)
        if config.depth == 18:
            block = BasicBlock(in_channels, out_channels, stride=stride, norm=config.norm)
        else:
            block = BottleneckBlock(
                in_channels,
                out_channels,
                stride=stride,
                norm=config.norm,
                stride_in_1x1=config.stride_in_1x1,
                dilation=block_dilation,
            )
        blocks.append(block)
        in_channels = out_channels
    return nn.ModuleList(blocks)


class ResNet(nn.Module):
    """[N,3,H,W] -> {"res2".."res5"}: [N,C,H/4,W/4] to [N,8C,H/32,W/32]."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        stem = DeepLabStem if config.stem == "deeplab" else BasicStem
        self.stem = stem(config.stem_out_channels, config.norm)
        in_channels = config.stem_out_channels
        for index, name in enumerate(FEATURES):
            self.add_module(name, _stage(config, index, in_channels))
            in_channels = config.out_channels[name]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """All four feature maps, finest first."""
        x = self.stem(x)
        features = {}
        for name in FEATURES:
            for block in getattr(self, name):
                x = block(x)
            features[name] = x
        return features
