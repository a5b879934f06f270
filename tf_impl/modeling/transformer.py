"""DETR's transformer as the original uses it: positions are added to queries and keys only.

Post-norm by default. There is no norm after a post-norm encoder; one `decoder.norm` serves every
intermediate decoder output. Tokens are [N,S,C] (original: `transformer/transformer.py`).
"""

import tensorflow as tf
import tf_keras

from tf_impl.layers import (
    Dropout,
    LayerNorm,
    Linear,
    MultiheadAttention,
    xavier_uniform,
)


class TransformerEncoderLayer(tf_keras.layers.Layer):
    """Self-attention and feed-forward, each with a residual connection and a norm."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int,
        dropout: float,
        pre_norm: bool,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.self_attn = MultiheadAttention(d_model, nhead, dropout)
        self.linear1 = Linear(d_model, dim_feedforward, fill=xavier_uniform)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, fill=xavier_uniform)
        self.norm1 = LayerNorm(d_model)
        self.norm2 = LayerNorm(d_model)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self.pre_norm = pre_norm

    def _feed_forward(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        return self.linear2(self.dropout(tf.nn.relu(self.linear1(x)), training=training))

    def call(self, src: tf.Tensor, pos: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[N,S,C] tokens and positions -> [N,S,C]."""
        if self.pre_norm:
            x = self.norm1(src)
            attended, _ = self.self_attn(x + pos, x + pos, x, training=training)
            src = src + self.dropout1(attended, training=training)
            x = self._feed_forward(self.norm2(src), training)
            return src + self.dropout2(x, training=training)
        query = src + pos
        attended, _ = self.self_attn(query, query, src, training=training)
        src = self.norm1(src + self.dropout1(attended, training=training))
        x = self._feed_forward(src, training)
        return self.norm2(src + self.dropout2(x, training=training))


class TransformerEncoder(tf_keras.layers.Layer):
    """A stack of encoder layers; a last norm only where the layers are pre-norm."""

    def __init__(
        self,
        num_layers: int,
        d_model: int,
        nhead: int,
        dim_feedforward: int,
        dropout: float,
        pre_norm: bool,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.layers = [
            TransformerEncoderLayer(d_model, nhead, dim_feedforward, dropout, pre_norm)
            for _ in range(num_layers)
        ]
        self.norm = LayerNorm(d_model) if pre_norm else None

    def call(self, src: tf.Tensor, pos: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[N,S,C] tokens and positions -> [N,S,C]."""
        for layer in self.layers:
            src = layer(src, pos, training=training)
        return src if self.norm is None else self.norm(src)


class TransformerDecoderLayer(tf_keras.layers.Layer):
    """Self-attention among queries, attention to the memory, feed-forward."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int,
        dropout: float,
        pre_norm: bool,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.self_attn = MultiheadAttention(d_model, nhead, dropout)
        self.multihead_attn = MultiheadAttention(d_model, nhead, dropout)
        self.linear1 = Linear(d_model, dim_feedforward, fill=xavier_uniform)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, fill=xavier_uniform)
        self.norm1 = LayerNorm(d_model)
        self.norm2 = LayerNorm(d_model)
        self.norm3 = LayerNorm(d_model)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self.dropout3 = Dropout(dropout)
        self.pre_norm = pre_norm

    def _feed_forward(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        return self.linear2(self.dropout(tf.nn.relu(self.linear1(x)), training=training))

    def call(
        self,
        tgt: tf.Tensor,
        memory: tf.Tensor,
        pos: tf.Tensor,
        query_pos: tf.Tensor,
        training: bool = False,
    ) -> tf.Tensor:
        """Queries [N,Q,C], memory [N,S,C] and the positions of both -> queries [N,Q,C]."""
        key = memory + pos
        if self.pre_norm:
            x = self.norm1(tgt)
            query = x + query_pos
            attended, _ = self.self_attn(query, query, x, training=training)
            tgt = tgt + self.dropout1(attended, training=training)
            query = self.norm2(tgt) + query_pos
            attended, _ = self.multihead_attn(query, key, memory, training=training)
            tgt = tgt + self.dropout2(attended, training=training)
            x = self._feed_forward(self.norm3(tgt), training)
            return tgt + self.dropout3(x, training=training)
        query = tgt + query_pos
        attended, _ = self.self_attn(query, query, tgt, training=training)
        tgt = self.norm1(tgt + self.dropout1(attended, training=training))
        query = tgt + query_pos
        attended, _ = self.multihead_attn(query, key, memory, training=training)
        tgt = self.norm2(tgt + self.dropout2(attended, training=training))
        x = self._feed_forward(tgt, training)
        return self.norm3(tgt + self.dropout3(x, training=training))


class TransformerDecoder(tf_keras.layers.Layer):
    """A stack of decoder layers and the norm that every returned output passes."""

    def __init__(
        self,
        num_layers: int,
        d_model: int,
        nhead: int,
        dim_feedforward: int,
        dropout: float,
        pre_norm: bool,
        return_intermediate: bool,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.layers = [
            TransformerDecoderLayer(d_model, nhead, dim_feedforward, dropout, pre_norm)
            for _ in range(num_layers)
        ]
        self.norm = LayerNorm(d_model)
        self.return_intermediate = return_intermediate

    def call(
        self,
        tgt: tf.Tensor,
        memory: tf.Tensor,
        pos: tf.Tensor,
        query_pos: tf.Tensor,
        training: bool = False,
    ) -> tf.Tensor:
        """Outputs [L,N,Q,C] of all layers, or [1,N,Q,C] of the last."""
        outputs = []
        for layer in self.layers:
            tgt = layer(tgt, memory, pos, query_pos, training=training)
            if self.return_intermediate:
                outputs.append(self.norm(tgt))
        if not self.return_intermediate:
            outputs.append(self.norm(tgt))
        return tf.stack(outputs)


def _flatten(x: tf.Tensor) -> tf.Tensor:
    """[N,H,W,C] -> [N,H*W,C]."""
    n, height, width, channels = x.shape
    return tf.reshape(x, (n, height * width, channels))


class Transformer(tf_keras.layers.Layer):
    """Encoder (possibly empty) and decoder over a feature map (the predictor's transformer)."""

    def __init__(
        self,
        *,
        d_model: int,
        nhead: int,
        num_encoder_layers: int,
        num_decoder_layers: int,
        dim_feedforward: int,
        dropout: float,
        pre_norm: bool,
        return_intermediate: bool,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        sizes = (d_model, nhead, dim_feedforward, dropout, pre_norm)
        self.encoder = TransformerEncoder(num_encoder_layers, *sizes)
        self.decoder = TransformerDecoder(num_decoder_layers, *sizes, return_intermediate)

    def call(
        self,
        src: tf.Tensor,
        query_embed: tf.Tensor,
        pos_embed: tf.Tensor,
        training: bool = False,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Map [N,H,W,C], query embedding [Q,C], positions [N,H,W,C] -> hs [L,N,Q,C], memory map."""
        pos = _flatten(pos_embed)
        query_pos = tf.repeat(query_embed[None], src.shape[0], axis=0)
        memory = self.encoder(_flatten(src), pos, training=training)
        hs = self.decoder(tf.zeros_like(query_pos), memory, pos, query_pos, training=training)
        return hs, tf.reshape(memory, src.shape)


class TransformerEncoderOnly(tf_keras.layers.Layer):
    """An encoder over a feature map (the pixel decoder's transformer)."""

    def __init__(
        self,
        *,
        d_model: int,
        nhead: int,
        num_encoder_layers: int,
        dim_feedforward: int,
        dropout: float,
        pre_norm: bool,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.encoder = TransformerEncoder(
            num_encoder_layers, d_model, nhead, dim_feedforward, dropout, pre_norm
        )

    def call(self, src: tf.Tensor, pos_embed: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Map [N,H,W,C] and positions [N,H,W,C] -> encoded map [N,H,W,C]."""
        memory = self.encoder(_flatten(src), _flatten(pos_embed), training=training)
        return tf.reshape(memory, src.shape)
