"""A small PyTorch model with every kind of call the engine must follow."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Affine(nn.Module):
    """A frozen scale and offset per channel, NCHW."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.rand(channels) + 0.5)
        self.register_buffer("bias", torch.randn(channels) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class Conv(nn.Conv2d):
    """A 3x3 convolution that calls its own norm."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, 3, stride, 1, bias=False)
        self.norm = Affine(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


class Block(nn.Module):
    """A residual block that works in place, as ResNets do."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Conv(channels, channels)
        self.conv2 = Conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu_(self.conv1(x)))
        out += x
        return F.relu_(out)


class Backbone(nn.Module):
    """Two maps, by name; modules that are lists, not attributes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = Conv(3, width, stride=2)
        self.res2 = nn.ModuleList([Block(width), Block(width)])
        self.down = Conv(width, width, stride=2)
        self.res3 = nn.Sequential(Block(width))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.max_pool2d(F.relu_(self.stem(x)), 3, 1, 1)
        for block in self.res2:
            x = block(x)
        return {"res2": x, "res3": self.res3(self.down(x))}


class Fuse(nn.Module):
    """Takes a dictionary of tensors and a list of them, returns a tuple with a hole."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(width, width, 1)

    def forward(self, features: dict[str, Tensor], extra: list[Tensor]) -> tuple[Tensor, None]:
        fine = features["res2"]
        coarse = F.interpolate(self.lateral(features["res3"]), fine.shape[-2:], mode="nearest")
        return fine + coarse + extra[0] * extra[1], None


class Attention(nn.Module):
    """One head, sequence first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_weight = nn.Parameter(torch.randn(3, width, width) / width**0.5)
        self.out = nn.Linear(width, width)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        q, k, v = (
            (x @ w).transpose(0, 1)
            for x, w in zip((query, key, value), self.in_weight, strict=True)
        )
        scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5
        if mask is not None:
            scores = scores + mask
        return self.out((scores.softmax(-1) @ v).transpose(0, 1)), None


class Layer(nn.Module):
    """A post-norm layer of a decoder."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = Attention(width)
        self.linear1 = nn.Linear(width, 2 * width)
        self.dropout = nn.Dropout(0.1)
        self.linear2 = nn.Linear(2 * width, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(
        self, x: Tensor, memory: Tensor, pos: Tensor | None = None, query_pos: Tensor | None = None
    ) -> Tensor:
        attended = self.attention(x + query_pos, key=memory + pos, value=memory, mask=None)[0]
        x = self.norm1(x + attended)
        return self.norm2(x + self.linear2(self.dropout(F.relu(self.linear1(x)))))


class Decoder(nn.Module):
    """Layers with a norm that is called after each of them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(width), Layer(width)])
        self.norm = nn.LayerNorm(width)

    def forward(self, queries: Tensor, memory: Tensor, pos: Tensor) -> Tensor:
        x, results = torch.zeros_like(queries), []
        for layer in self.layers:
            x = layer(x, memory, pos=pos, query_pos=queries)
            results.append(self.norm(x))
        return torch.stack(results)


class Model(nn.Module):
    """Images [B,3,H,W] to {"scores": [B,Q,4], "masks": [B,Q,h,w], "kept": int64, "aux": list}."""

    def __init__(self, width: int = 8, queries: int = 5) -> None:
        super().__init__()
        self.backbone = Backbone(width)
        self.fuse = Fuse(width)
        self.decoder = Decoder(width)
        self.queries = nn.Embedding(queries, width)
        self.head = nn.Linear(width, 4)

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> dict:
        features = self.backbone(images)
        maps, _ = self.fuse(features, [features["res2"], features["res2"]])
        memory = features["res3"].flatten(2).permute(2, 0, 1)
        pos = torch.sin(torch.arange(memory.shape[0], dtype=memory.dtype) * 0.37)
        pos = pos[:, None, None].expand_as(memory)
        queries = self.queries.weight[:, None].expand(-1, memory.shape[1], -1)
        states = self.decoder(queries, memory, pos)
        scores = self.head(states).transpose(1, 2)
        masks = torch.einsum("qbc,bchw->bqhw", states[-1], maps)
        return {
            "scores": scores[-1],
            "masks": masks,
            "kept": scores[-1].argmax(-1),
            "aux": [{"scores": one} for one in scores[:-1]],
        }
