"""The TensorFlow twin of `torch_side`, NHWC inside, with switches that plant faults.

Each module has an attribute `fault`; a test sets it to the name of what is to go wrong there.
"""

import numpy as np
import tensorflow as tf
import tf_keras

K = tf_keras.layers.Layer


def _variable(shape: tuple[int, ...], dtype: str) -> tf.Variable:
    return tf.Variable(tf.zeros(shape, dtype))


class Affine(tf.Module):
    """A plain module, no layer of Keras."""

    def __init__(self, channels: int, dtype: str) -> None:
        super().__init__()
        self.weight = _variable((channels,), dtype)
        self.bias = _variable((channels,), dtype)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return x * self.weight + self.bias


class Conv2d(K):
    def __init__(self, inputs: int, outputs: int, size: int, dtype: str, stride: int = 1) -> None:
        super().__init__(dtype=dtype)
        self.kernel = _variable((size, size, inputs, outputs), dtype)
        self.bias = _variable((outputs,), dtype)
        self.stride, self.size, self.fault = stride, size, None

    def convolve(self, x: tf.Tensor) -> tf.Tensor:
        if self.fault == "same padding":
            return tf.nn.conv2d(x, self.kernel, self.stride, "SAME")
        pad = self.size // 2
        x = tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
        return tf.nn.conv2d(x, self.kernel, self.stride, "VALID")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.convolve(x) + self.bias


class Conv(Conv2d):
    def __init__(self, inputs: int, outputs: int, dtype: str, stride: int = 1) -> None:
        super().__init__(inputs, outputs, 3, dtype, stride)
        self.norm = Affine(outputs, dtype)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.norm(self.convolve(x))


class Linear(K):
    def __init__(self, inputs: int, outputs: int, dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.weight = _variable((inputs, outputs), dtype)
        self.bias = _variable((outputs,), dtype)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.tensordot(inputs, self.weight, 1) + self.bias


class LayerNorm(K):
    def __init__(self, width: int, dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.weight = _variable((width,), dtype)
        self.bias = _variable((width,), dtype)
        self.epsilon = 1e-5

    def call(self, x: tf.Tensor) -> tf.Tensor:
        mean, variance = tf.nn.moments(x, -1, keepdims=True)
        return (x - mean) * tf.math.rsqrt(variance + self.epsilon) * self.weight + self.bias


class Block(K):
    def __init__(self, channels: int, dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.conv1 = Conv(channels, channels, dtype)
        self.conv2 = Conv(channels, channels, dtype)
        self.fault = None

    def call(self, x: tf.Tensor) -> tf.Tensor:
        out = self.conv2(tf.nn.relu(self.conv1(x)))
        return tf.nn.relu(out) if self.fault == "no residual" else tf.nn.relu(out + x)


class Backbone(K):
    def __init__(self, width: int, dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.stem = Conv(3, width, dtype, stride=2)
        self.res2 = [Block(width, dtype), Block(width, dtype)]
        self.down = Conv(width, width, dtype, stride=2)
        self.res3 = tf_keras.Sequential([Block(width, dtype)])
        self.fault = None

    def call(self, x: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        x = tf.nn.max_pool2d(tf.nn.relu(self.stem(x)), 3, 1, "SAME")
        for block in self.res2:
            x = block(x)
        if self.fault == "swapped axes":
            return {"res2": x, "res3": self.res3(self.down(tf.transpose(x, [0, 2, 1, 3])))}
        return {"res2": x, "res3": self.res3(self.down(x))}


class Fuse(K):
    def __init__(self, width: int, dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.lateral = Conv2d(width, width, 1, dtype)
        self.fault = None

    def call(self, features: dict[str, tf.Tensor], extra: list[tf.Tensor]) -> tf.Tensor:
        fine, coarse = features["res2"], self.lateral(features["res3"])
        if self.fault == "half-pixel nearest":
            coarse = tf.image.resize(coarse, fine.shape[1:3], "nearest")
        else:
            coarse = tf.compat.v1.image.resize_nearest_neighbor(coarse, fine.shape[1:3])
        return fine + coarse + extra[0] * extra[1]


class Attention(K):
    def __init__(self, width: int, dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.in_weight = _variable((3, width, width), dtype)
        self.out = Linear(width, width, dtype)
        self.fault = None

    def call(
        self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        q, k, v = (
            tf.transpose(tf.tensordot(x, self.in_weight[i], 1), [1, 0, 2])
            for i, x in enumerate((query, key, value))
        )
        factor = 1.0 if self.fault == "no scale" else q.shape[-1] ** -0.5
        weights = tf.nn.softmax(tf.matmul(q, k, transpose_b=True) * factor)
        return self.out(tf.transpose(tf.matmul(weights, v), [1, 0, 2]))


class Layer(K):
    def __init__(self, width: int, dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.attention = Attention(width, dtype)
        self.linear1 = Linear(width, 2 * width, dtype)
        self.linear2 = Linear(2 * width, width, dtype)
        self.norm1 = LayerNorm(width, dtype)
        self.norm2 = LayerNorm(width, dtype)
        self.fault = None

    def call(
        self,
        x: tf.Tensor,
        memory: tf.Tensor,
        pos: tf.Tensor | None = None,
        query_pos: tf.Tensor | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        lonely = query_pos is None or self.fault == "no query position"
        query = x if lonely else x + query_pos
        value = memory + pos if self.fault == "position in value" else memory
        attended = self.attention(query, key=memory + pos, value=value)
        x = self.norm1(x + attended)
        return self.norm2(x + self.linear2(tf.nn.relu(self.linear1(x))))


class Decoder(K):
    def __init__(self, width: int, dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.layers = [Layer(width, dtype), Layer(width, dtype)]
        self.norm = LayerNorm(width, dtype)
        self.fault = None

    def call(self, queries: tf.Tensor, memory: tf.Tensor, pos: tf.Tensor) -> tf.Tensor:
        x, results = tf.zeros_like(queries), []
        for index, layer in enumerate(self.layers):
            if self.fault == "query position not passed" and index == 1:
                x = layer(x, memory, pos=pos, query_pos=None)
            else:
                x = layer(x, memory, pos=pos, query_pos=queries)
            last = index == len(self.layers) - 1
            results.append(x if self.fault == "no final norm" and last else self.norm(x))
        return tf.stack(results)


class Model(tf_keras.Model):
    def __init__(self, width: int = 8, queries: int = 5, dtype: str = "float32") -> None:
        super().__init__(dtype=dtype)
        self.backbone = Backbone(width, dtype)
        self.fuse = Fuse(width, dtype)
        self.decoder = Decoder(width, dtype)
        self.queries = Embedding(queries, width, dtype)
        self.head = Linear(width, 4, dtype)
        self.fault = None

    def call(
        self, images: tf.Tensor, sizes: tf.Tensor | None = None, training: bool = False
    ) -> dict:
        features = self.backbone(images, training=training)
        maps = self.fuse(features, [features["res2"], features["res2"]])
        if self.fault == "memory from another map":
            features = {**features, "res3": features["res3"] * 1.001}
        batch, height, width, channels = features["res3"].shape
        memory = tf.reshape(features["res3"], [batch, height * width, channels])
        memory = tf.transpose(memory, [1, 0, 2])
        pos = tf.sin(tf.range(height * width, dtype=memory.dtype) * 0.37)
        pos = tf.broadcast_to(pos[:, None, None], memory.shape)
        queries = self.queries.weight[:, None]
        queries = tf.broadcast_to(queries, [queries.shape[0], batch, channels])
        states = self.decoder(queries, memory, pos)
        scores = tf.transpose(self.head(states), [0, 2, 1, 3])
        masks = tf.einsum("qbc,bhwc->bqhw", states[-1], maps)
        if self.fault == "flipped classes":
            scores = scores[..., ::-1]
        return {
            "scores": scores[-1],
            "masks": masks,
            "kept": tf.argmax(scores[-1], -1),
            "aux": [{"scores": one} for one in tf.unstack(scores)[:-1]],
        }


class Embedding(K):
    def __init__(self, entries: int, width: int, dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.weight = _variable((entries, width), dtype)

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        return tf.gather(self.weight, ids)


def load(model: tf.Module, state: dict[str, np.ndarray]) -> None:
    """Give the model the weights of `torch_side.Model`, by attribute path."""
    for key, array in state.items():
        *path, name = key.split(".")
        module = model
        for part in path:
            if isinstance(module, tf_keras.Sequential):
                module = module.layers[int(part)]
            else:
                module = module[int(part)] if part.isdigit() else getattr(module, part)
        if isinstance(module, Conv2d) and name == "weight":
            module.kernel.assign(array.transpose(2, 3, 1, 0))
        else:
            turned = array.T if isinstance(module, Linear) and name == "weight" else array
            getattr(module, name).assign(turned)
