"""ResNet backbones: detectron2's `modeling/backbone/resnet.py` and its DeepLab variant."""

import tensorflow as tf
import tf_keras

from maskformer.model.config import FEATURES, ResNetConfig
from tf_impl.layers import Conv2d, max_pool2d, msra_fill


def _conv(in_channels: int, out_channels: int, kernel_size: int, norm: str, **kwargs) -> Conv2d:
    return Conv2d(
        in_channels, out_channels, kernel_size, bias=False, norm=norm, fill=msra_fill, **kwargs
    )


class BasicStem(tf_keras.layers.Layer):
    """7x7 convolution of stride 2, ReLU, 3x3 max pool of stride 2: [N,H,W,3] -> [N,H/4,W/4,C]."""

    def __init__(self, out_channels: int, norm: str, **kwargs) -> None:
        super().__init__(**kwargs)
        self.conv1 = _conv(3, out_channels, 7, norm, stride=2, padding=3)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Features at stride 4."""
        x = tf.nn.relu(self.conv1(x))
        return max_pool2d(x, kernel_size=3, stride=2, padding=1)


class DeepLabStem(tf_keras.layers.Layer):
    """Three 3x3 convolutions, the first of stride 2, then max pool (R101c)."""

    def __init__(self, out_channels: int, norm: str, **kwargs) -> None:
        super().__init__(**kwargs)
        half = out_channels // 2
        self.conv1 = _conv(3, half, 3, norm, stride=2, padding=1)
        self.conv2 = _conv(half, half, 3, norm, padding=1)
        self.conv3 = _conv(half, out_channels, 3, norm, padding=1)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Features at stride 4."""
        x = tf.nn.relu(self.conv1(x))
        x = tf.nn.relu(self.conv2(x))
        x = tf.nn.relu(self.conv3(x))
        return max_pool2d(x, kernel_size=3, stride=2, padding=1)


class BasicBlock(tf_keras.layers.Layer):
    """Two 3x3 convolutions with a residual connection (ResNet-18)."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, norm: str, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = _conv(in_channels, out_channels, 1, norm, stride=stride)
        self.conv1 = _conv(in_channels, out_channels, 3, norm, stride=stride, padding=1)
        self.conv2 = _conv(out_channels, out_channels, 3, norm, padding=1)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """ReLU(x or its projection + branch)."""
        out = self.conv2(tf.nn.relu(self.conv1(x)))
        return tf.nn.relu(out + (x if self.shortcut is None else self.shortcut(x)))


class BottleneckBlock(tf_keras.layers.Layer):
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
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        width = out_channels // 4
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = _conv(in_channels, out_channels, 1, norm, stride=stride)
        self.conv1 = _conv(in_channels, width, 1, norm, stride=stride_1x1)
        self.conv2 = _conv(
            width, width, 3, norm, stride=stride_3x3, padding=dilation, dilation=dilation
        )
        self.conv3 = _conv(width, out_channels, 1, norm)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """ReLU(x or its projection + branch)."""
        out = tf.nn.relu(self.conv1(x))
        out = tf.nn.relu(self.conv2(out))
        out = self.conv3(out)
        return tf.nn.relu(out + (x if self.shortcut is None else self.shortcut(x)))


def _stage(config: ResNetConfig, index: int, in_channels: int) -> list[tf_keras.layers.Layer]:
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
    return blocks


class ResNet(tf_keras.layers.Layer):
    """[N,H,W,3] -> {"res2".."res5"}: [N,H/4,W/4,C] to [N,H/32,W/32,8C]."""

    def __init__(self, config: ResNetConfig, **kwargs) -> None:
        super().__init__(**kwargs)
        stem = DeepLabStem if config.stem == "deeplab" else BasicStem
        self.stem = stem(config.stem_out_channels, config.norm)
        in_channels = config.stem_out_channels
        for index, name in enumerate(FEATURES):
            setattr(self, name, _stage(config, index, in_channels))
            in_channels = config.out_channels[name]

    def call(self, x: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """All four feature maps, finest first; no norm here depends on `training`."""
        x = self.stem(x)
        features = {}
        for name in FEATURES:
            for block in getattr(self, name):
                x = block(x)
            features[name] = x
        return features
