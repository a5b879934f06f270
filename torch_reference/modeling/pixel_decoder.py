"""Pixel decoders: the FPN that turns backbone features into per-pixel embeddings."""

from torch import Tensor, nn
from torch.nn import functional as F

from maskformer.model.config import FEATURES, PixelDecoderConfig, PredictorConfig
from torch_reference.layers import Conv2d, xavier_fill
from torch_reference.modeling.position_encoding import PositionEmbeddingSine
from torch_reference.modeling.transformer import TransformerEncoderOnly


def _output_conv(in_channels: int, config: PixelDecoderConfig) -> Conv2d:
    return xavier_fill(
        Conv2d(
            in_channels,
            config.conv_dim,
            3,
            padding=1,
            bias=config.norm == "",
            norm=config.norm,
            activation=F.relu,
        )
    )


class PixelDecoder(nn.Module):
    """FPN from res5 down to res2 with nearest upsampling, then a 3x3 convolution.

    `adapter_i` are lateral 1x1 convolutions, `layer_i` 3x3 output convolutions with ReLU; i = 1 is
    res2, i = 4 is res5. "TransformerEncoderPixelDecoder" puts a transformer encoder between res5
    and `layer_4` (the original's `heads/pixel_decoder.py`; attributes in its state dict's order).
    """

    def __init__(
        self,
        config: PixelDecoderConfig,
        in_channels: dict[str, int],
        predictor: PredictorConfig,
    ) -> None:
        super().__init__()
        dim = config.conv_dim
        for number, name in enumerate(FEATURES[:-1], start=1):
            lateral = Conv2d(in_channels[name], dim, 1, bias=config.norm == "", norm=config.norm)
            self.add_module(f"adapter_{number}", xavier_fill(lateral))
            self.add_module(f"layer_{number}", _output_conv(dim, config))
        if config.name == "TransformerEncoderPixelDecoder":
            self.mask_features = xavier_fill(Conv2d(dim, config.mask_dim, 3, padding=1))
            self.input_proj = xavier_fill(Conv2d(in_channels["res5"], dim, 1))
            self.transformer = TransformerEncoderOnly(
                d_model=dim,
                nhead=predictor.nheads,
                num_encoder_layers=config.transformer_enc_layers,
                dim_feedforward=predictor.dim_feedforward,
                dropout=predictor.dropout,
                pre_norm=predictor.pre_norm,
            )
            self.pe_layer = PositionEmbeddingSine(dim // 2)
            self.layer_4 = _output_conv(dim, config)
        else:
            self.layer_4 = _output_conv(in_channels["res5"], config)
            self.mask_features = xavier_fill(Conv2d(dim, config.mask_dim, 3, padding=1))
            self.transformer = None

    def forward(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Features res2..res5 [N,C,h,w] -> (mask features [N,mask_dim,H/4,W/4], encoder output).

        The encoder output [N,conv_dim,H/32,W/32] is taken before `layer_4`: it is the decoder's
        memory. It is None without an encoder.
        """
        top, encoded = features["res5"], None
        if self.transformer is not None:
            encoded = self.transformer(self.input_proj(top), self.pe_layer(top))
            top = encoded
        y = self.layer_4(top)
        for number in (3, 2, 1):
            lateral = getattr(self, f"adapter_{number}")(features[FEATURES[number - 1]])
            y = lateral + F.interpolate(y, size=lateral.shape[-2:], mode="nearest")
            y = getattr(self, f"layer_{number}")(y)
        return self.mask_features(y), encoded
