"""The transformer predictor: queries become class logits and mask logits."""

import tensorflow as tf
import tf_keras

from maskformer.model.config import PredictorConfig
from tf_impl.layers import Conv2d, Embedding, Linear, xavier_fill
from tf_impl.modeling.position_encoding import PositionEmbeddingSine
from tf_impl.modeling.transformer import Transformer


class MLP(tf_keras.layers.Layer):
    """Linear layers with ReLU between them."""

    def __init__(
        self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        widths = [in_dim] + [hidden_dim] * (num_layers - 1) + [out_dim]
        self.layers = [Linear(widths[i], widths[i + 1]) for i in range(num_layers)]

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[..., in_dim] -> [..., out_dim]."""
        for layer in self.layers[:-1]:
            x = tf.nn.relu(layer(x))
        return self.layers[-1](x)


class TransformerPredictor(tf_keras.layers.Layer):
    """Decodes queries against a feature map (the original's `transformer_predictor.py`).

    `num_classes` None leaves out the class head (per-pixel baseline+).
    """

    def __init__(
        self,
        config: PredictorConfig,
        in_channels: int,
        num_classes: int | None,
        mask_dim: int,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
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
        self.query_embed = Embedding(config.num_queries, hidden)
        self.input_proj = None
        if in_channels != hidden or config.enforce_input_proj:
            self.input_proj = Conv2d(in_channels, hidden, 1, fill=xavier_fill)
        self.class_embed = None if num_classes is None else Linear(hidden, num_classes + 1)
        self.mask_embed = MLP(hidden, hidden, mask_dim, 3)

    def call(
        self, x: tf.Tensor, mask_features: tf.Tensor, training: bool = False
    ) -> dict[str, tf.Tensor | list]:
        """Map [N,h,w,C] and mask features [N,H/4,W/4,M] -> predictions of the last layer.

        Returns "pred_logits" [N,Q,K+1] (no-object last; absent without a class head), "pred_masks"
        [N,Q,H/4,W/4] logits, and with deep supervision "aux_outputs", the same per earlier layer.
        """
        src = x if self.input_proj is None else self.input_proj(x)
        query_embed = tf.convert_to_tensor(self.query_embed.weight)
        hs, _ = self.transformer(src, query_embed, self.pe_layer(x), training=training)
        masks = _mask_logits(self.mask_embed(hs), mask_features)
        layers = [{"pred_masks": mask} for mask in tf.unstack(masks)]
        if self.class_embed is not None:
            for layer, logits in zip(layers, tf.unstack(self.class_embed(hs)), strict=True):
                layer["pred_logits"] = logits
        if self.deep_supervision:
            return {**layers[-1], "aux_outputs": layers[:-1]}
        return layers[-1]


def _mask_logits(mask_embed: tf.Tensor, mask_features: tf.Tensor) -> tf.Tensor:
    """Products over channels: [L,N,Q,M] with [N,H,W,M] -> [L,N,Q,H,W], one product per image."""
    layers, n, queries, channels = mask_embed.shape
    _, height, width, _ = mask_features.shape
    embed = tf.reshape(tf.transpose(mask_embed, (1, 0, 2, 3)), (n, layers * queries, channels))
    pixels = tf.reshape(mask_features, (n, height * width, channels))
    masks = tf.matmul(embed, pixels, transpose_b=True)
    masks = tf.reshape(masks, (n, layers, queries, height, width))
    return tf.transpose(masks, (1, 0, 2, 3, 4))
