"""The transformer predictor: queries become class logits and mask logits."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskformer.model.config import PredictorConfig
from torch_reference.layers import Conv2d, xavier_fill
from torch_reference.modeling.position_encoding import PositionEmbeddingSine
from torch_reference.modeling.transformer import Transformer


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int) -> None:
        super().__init__()
        widths = [in_dim] + [hidden_dim] * (num_layers - 1) + [out_dim]
        self.layers = nn.ModuleList(nn.Linear(widths[i], widths[i + 1]) for i in range(num_layers))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_dim] -> [..., out_dim]."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class TransformerPredictor(nn.Module):
    """Decodes queries against a feature map (the original's `transformer_predictor.py`).

    `num_classes` None leaves out the class head (per-pixel baseline+).
    """

    def __init__(
        self, config: PredictorConfig, in_channels: int, num_classes: int | None, mask_dim: int
    ) -> None:
        super().__init__()
        hidden = config.hidden_dim
        self.deep_supervision = config.deep_supervision
        self.pe_layer = PositionEmbeddingSine(hidden // 2)
        self.transformer = Transformer(
            d_model=hidden,
            nhead=config.nheads,
            num_encoder_layers=config.enc_layers,
            num_decoder_layers=config.dec_layers,
            dim_feedforward=config.dim_feedforward,
            dropout=config.dropout,
            pre_norm=config.pre_norm,
            return_intermediate=config.deep_supervision,
        )
        self.query_embed = nn.Embedding(config.num_queries, hidden)
        self.input_proj = None
        if in_channels != hidden or config.enforce_input_proj:
            self.input_proj = xavier_fill(Conv2d(in_channels, hidden, 1))
        self.class_embed = None if num_classes is None else nn.Linear(hidden, num_classes + 1)
        self.mask_embed = MLP(hidden, hidden, mask_dim, 3)

    def forward(self, x: Tensor, mask_features: Tensor) -> dict[str, Tensor | list]:
        """Map [N,C,h,w] and mask features [N,M,H/4,W/4] -> predictions of the last layer.

        Returns "pred_logits" [N,Q,K+1] (no-object last; absent without a class head), "pred_masks"
        [N,Q,H/4,W/4] logits, and with deep supervision "aux_outputs", the same per earlier layer.
        """
        src = x if self.input_proj is None else self.input_proj(x)
        hs, _ = self.transformer(src, self.query_embed.weight, self.pe_layer(x))
        masks = torch.einsum("lbqc,bchw->lbqhw", self.mask_embed(hs), mask_features)
        layers = [{"pred_masks": mask} for mask in masks]
        if self.class_embed is not None:
            for layer, logits in zip(layers, self.class_embed(hs), strict=True):
                layer["pred_logits"] = logits
        if self.deep_supervision:
            return {**layers[-1], "aux_outputs": layers[:-1]}
        return layers[-1]
