"""Deterministic, well-conditioned weights from (name, shape, seed) alone, without any framework.

Names and shapes are those of the PyTorch state dict (convolutions OIHW, linear layers [out, in]).
Each tensor has its own generator, so its values do not depend on which others are drawn:
PCG64 seeded with the first eight bytes (little endian) of sha256 of ``"{seed}:{name}"``, one draw
of standard normals in float64, and one rule that shapes them. The rules keep the signal of a full
model in a realistic range: feature maps and queries that differ, masks that are sparse, classes
that vary. `parity_tests/golden/seeded_digests.json` fixes the values.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

MODEL_CONSTANTS = frozenset(
    ("relative_position_index", "num_batches_tracked", "empty_weight", "pixel_mean", "pixel_std")
)
"""Last name components of tensors that are constants of the model, not weights."""

# Queries and keys a little larger than Xavier: attention that is neither uniform nor one-hot.
_QUERY_KEY_GAIN = 1.4
# COCO's stuff classes, indices 80 up to but not including no-object, are rarer argmax winners.
_FIRST_STUFF_CLASS, _STUFF_BIAS = 80, 1.5
# Means whose product over 256 channels is about -4: most mask probabilities lie below one half.
_MASK_FEATURES_BIAS, _MASK_EMBED_BIAS = 0.2, -0.08

# Gains of filters, relative to 1 / sqrt(fan in); the first pattern found in the name wins.
_FILTER_GAINS: tuple[tuple[re.Pattern[str], float], ...] = tuple(
    (re.compile(pattern), gain)
    for pattern, gain in (
        (r"backbone\.stem\.conv\d\.weight$", 1.7),
        (r"backbone\.res4\.([6-9]|\d\d)\.conv3\.weight$", 0.2),  # ResNet-101's additional blocks
        (r"backbone\.res\d\.\d+\.conv3\.weight$", 0.5),  # a residual stream of order 1
        (r"backbone\.res\d\.\d+\.shortcut\.weight$", 1.4),
        (r"backbone\.res\d\.\d+\.conv\d\.weight$", 1.7),
        (r"predictor\.input_proj\.weight$", 1.5),
        (r"linear1\.weight$", 1.5),
        (r"linear2\.weight$", 0.4),  # small branches keep tokens apart
        (r"self_attn\.out_proj\.weight$", 0.3),
        (r"multihead_attn\.out_proj\.weight$", 1.5),  # large: it makes the queries differ
        (r"predictor\.class_embed\.weight$", 4.0),
        (r"predictor\.mask_embed\.layers\.[01]\.weight$", 1.7),
        (r"predictor\.mask_embed\.layers\.2\.weight$", 0.4),
        (r"predictor\.weight$", 4.0),
    )
)
_RESNET_RES5_CHANNELS = 2048

_Rule = Callable[[str, np.ndarray], np.ndarray]


def seeded_tensor(name: str, shape: Sequence[int], seed: int = 0) -> np.ndarray | None:
    """The tensor `name` of the seeded weights: the same values on every machine.

    Args:
        name: state-dict key.
        shape: its shape in PyTorch's layout.
        seed: any integer; another seed gives independent weights.

    Returns:
        A contiguous float32 array of `shape`, or None for a constant of the model
        (`MODEL_CONSTANTS`), which keeps the value the model itself gives it.

    Raises:
        KeyError: no rule covers the name; the model has a kind of tensor unknown here.
    """
    if name.rsplit(".", 1)[-1] in MODEL_CONSTANTS:
        return None
    shape = tuple(int(side) for side in shape)
    key = hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8]
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(key, "little")))
    normals = generator.standard_normal(shape)
    rule = _rule_for(name, len(shape))
    if rule is None:
        raise KeyError(f"no seeded rule for {name} {list(shape)}")
    return np.ascontiguousarray(rule(name, normals).astype(np.float32))


def seeded_state(spec: Iterable[Sequence], seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded weights for every entry of `spec`, in its order, without the model's constants.

    Args:
        spec: entries that start with a state-dict key and a shape.
        seed: see `seeded_tensor`.

    Returns:
        float32 arrays by state-dict key.
    """
    drawn = ((name, seeded_tensor(name, shape, seed)) for name, shape, *_ in spec)
    return {name: tensor for name, tensor in drawn if tensor is not None}


def digest(tensor: np.ndarray) -> str:
    """sha256 of the tensor's bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(np.ascontiguousarray(tensor).tobytes()).hexdigest()


def _rule_for(name: str, rank: int) -> _Rule | None:
    for applies, rule in _RULES:
        if applies(name, rank):
            return rule
    return None


def _leaf(*leaves: str) -> Callable[[str, int], bool]:
    return lambda name, rank: name.rsplit(".", 1)[-1] in leaves


def _ending(ending: str) -> Callable[[str, int], bool]:
    return lambda name, rank: name.endswith(ending)


def _scaled(factor: float, offset: float = 0.0) -> _Rule:
    return lambda name, z: offset + factor * z


def _variance(name: str, z: np.ndarray) -> np.ndarray:
    return 0.5 + 1.0 / (1.0 + np.exp(-z))


def _norm_scale(name: str, z: np.ndarray) -> np.ndarray:
    return 1.0 + 0.1 * np.clip(z, -3.0, 3.0)


def _class_bias(name: str, z: np.ndarray) -> np.ndarray:
    bias = 0.1 * z
    bias[_FIRST_STUFF_CLASS:-1] += _STUFF_BIAS
    return bias


def _packed_projection(name: str, z: np.ndarray) -> np.ndarray:
    channels = z.shape[1]
    weight = z / np.sqrt(float(channels))
    weight[: 2 * channels] *= _QUERY_KEY_GAIN
    return weight


def _filter(name: str, z: np.ndarray) -> np.ndarray:
    # Filters that sum to zero: the positive mean of ReLU features would otherwise make all tokens,
    # and then all queries, nearly equal.
    centred = z - z.mean(axis=tuple(range(1, z.ndim)), keepdims=True)
    fan_in = float(np.prod(z.shape[1:]))
    return centred * (_filter_gain(name, z.shape) / np.sqrt(fan_in))


def _filter_gain(name: str, shape: tuple[int, ...]) -> float:
    if name.endswith("predictor.input_proj.weight") and shape[1] == _RESNET_RES5_CHANNELS:
        return 1.0
    return next((gain for pattern, gain in _FILTER_GAINS if pattern.search(name)), 1.0)


# The first rule that applies shapes the tensor.
_RULES: tuple[tuple[Callable[[str, int], bool], _Rule], ...] = (
    (_leaf("running_var"), _variance),
    (_leaf("running_mean"), _scaled(0.1)),
    (_leaf("relative_position_bias_table"), _scaled(0.3)),
    (_leaf("absolute_pos_embed"), _scaled(0.1)),
    (_ending("query_embed.weight"), _scaled(1.0)),
    (lambda name, rank: rank == 1 and name.endswith(".weight"), _norm_scale),
    (_ending("pixel_decoder.mask_features.bias"), _scaled(0.1, _MASK_FEATURES_BIAS)),
    (_ending("predictor.mask_embed.layers.2.bias"), _scaled(0.1, _MASK_EMBED_BIAS)),
    (_ending("predictor.class_embed.bias"), _class_bias),
    (_leaf("bias", "in_proj_bias"), _scaled(0.1)),
    (_leaf("in_proj_weight"), _packed_projection),
    (lambda name, rank: rank >= 2 and name.endswith(".weight"), _filter),
)
