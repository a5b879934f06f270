"""DETR's transformer as the original uses it: positions are added to queries and keys only.

Post-norm by default. There is no norm after a post-norm encoder; one `decoder.norm` serves every
intermediate decoder output. Tokens are [S,N,C] (original: `transformer/transformer.py`).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TransformerEncoderLayer(nn.Module):
    """Self-attention and feed-forward, each with a residual connection and a norm."""

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int, dropout: float, pre_norm: bool
    ) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d_model, nhead, dropout=dropout)
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)
        self.pre_norm = pre_norm

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(F.relu(self.linear1(x))))

    def forward(self, src: Tensor, pos: Tensor) -> Tensor:
        """[S,N,C] tokens and positions -> [S,N,C]."""
        if self.pre_norm:
            x = self.norm1(src)
            src = src + self.dropout1(self.self_attn(x + pos, x + pos, x)[0])
            return src + self.dropout2(self._feed_forward(self.norm2(src)))
        query = src + pos
        src = self.norm1(src + self.dropout1(self.self_attn(query, query, src)[0]))
        return self.norm2(src + self.dropout2(self._feed_forward(src)))


class TransformerEncoder(nn.Module):
    """A stack of encoder layers; a last norm only where the layers are pre-norm."""

    def __init__(
        self,
        num_layers: int,
        d_model: int,
        nhead: int,
        dim_feedforward: int,
        dropout: float,
        pre_norm: bool,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TransformerEncoderLayer(d_model, nhead, dim_feedforward, dropout, pre_norm)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(d_model) if pre_norm else None

    def forward(self, src: Tensor, pos: Tensor) -> Tensor:
        """[S,N,C] tokens and positions -> [S,N,C]."""
        for layer in self.layers:
            src = layer(src, pos)
        return src if self.norm is None else self.norm(src)


class TransformerDecoderLayer(nn.Module):
    """Self-attention among queries, attention to the memory, feed-forward."""

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int, dropout: float, pre_norm: bool
    ) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d_model, nhead, dropout=dropout)
        self.multihead_attn = nn.MultiheadAttention(d_model, nhead, dropout=dropout)
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.norm3 = nn.LayerNorm(d_model)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)
        self.dropout3 = nn.Dropout(dropout)
        self.pre_norm = pre_norm

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(F.relu(self.linear1(x))))

    def forward(self, tgt: Tensor, memory: Tensor, pos: Tensor, query_pos: Tensor) -> Tensor:
        """Queries [Q,N,C], memory [S,N,C] and the positions of both -> queries [Q,N,C]."""
        key = memory + pos
        if self.pre_norm:
            x = self.norm1(tgt)
            query = x + query_pos
            tgt = tgt + self.dropout1(self.self_attn(query, query, x)[0])
            query = self.norm2(tgt) + query_pos
            tgt = tgt + self.dropout2(self.multihead_attn(query, key, memory)[0])
            return tgt + self.dropout3(self._feed_forward(self.norm3(tgt)))
        query = tgt + query_pos
        tgt = self.norm1(tgt + self.dropout1(self.self_attn(query, query, tgt)[0]))
        query = tgt + query_pos
        tgt = self.norm2(tgt + self.dropout2(self.multihead_attn(query, key, memory)[0]))
        return self.norm3(tgt + self.dropout3(self._feed_forward(tgt)))


class TransformerDecoder(nn.Module):
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
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TransformerDecoderLayer(d_model, nhead, dim_feedforward, dropout, pre_norm)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.return_intermediate = return_intermediate

    def forward(self, tgt: Tensor, memory: Tensor, pos: Tensor, query_pos: Tensor) -> Tensor:
        """Outputs [L,Q,N,C] of all layers, or [1,Q,N,C] of the last."""
        outputs = []
        for layer in self.layers:
            tgt = layer(tgt, memory, pos, query_pos)
            if self.return_intermediate:
                outputs.append(self.norm(tgt))
        if not self.return_intermediate:
            outputs.append(self.norm(tgt))
        return torch.stack(outputs)


def _flatten(x: Tensor) -> Tensor:
    """[N,C,H,W] -> [H*W,N,C]."""
    return x.flatten(2).permute(2, 0, 1)


def _unflatten(tokens: Tensor, height: int, width: int) -> Tensor:
    """[H*W,N,C] -> [N,C,H,W]."""
    return tokens.permute(1, 2, 0).unflatten(2, (height, width))


def _xavier_uniform(module: nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)


class Transformer(nn.Module):
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
    ) -> None:
        super().__init__()
        sizes = (d_model, nhead, dim_feedforward, dropout, pre_norm)
        self.encoder = TransformerEncoder(num_encoder_layers, *sizes)
        self.decoder = TransformerDecoder(num_decoder_layers, *sizes, return_intermediate)
        _xavier_uniform(self)

    def forward(self, src: Tensor, query_embed: Tensor, pos_embed: Tensor) -> tuple[Tensor, Tensor]:
        """Map [N,C,H,W], query embedding [Q,C], positions [N,C,H,W] -> hs [L,N,Q,C], memory map."""
        height, width = src.shape[-2:]
        pos = _flatten(pos_embed)
        query_pos = query_embed.unsqueeze(1).repeat(1, src.shape[0], 1)
        memory = self.encoder(_flatten(src), pos)
        hs = self.decoder(torch.zeros_like(query_pos), memory, pos, query_pos)
        return hs.transpose(1, 2), _unflatten(memory, height, width)


class TransformerEncoderOnly(nn.Module):
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
    ) -> None:
        super().__init__()
        self.encoder = TransformerEncoder(
            num_encoder_layers, d_model, nhead, dim_feedforward, dropout, pre_norm
        )
        _xavier_uniform(self)

    def forward(self, src: Tensor, pos_embed: Tensor) -> Tensor:
        """Map [N,C,H,W] and positions [N,C,H,W] -> encoded map [N,C,H,W]."""
        memory = self.encoder(_flatten(src), _flatten(pos_embed))
        return _unflatten(memory, *src.shape[-2:])
