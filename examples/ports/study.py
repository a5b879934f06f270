"""What is known of ports by others, circumstance by circumstance: equal, or what differs.

A case is one entry: what makes the pair, and what makes it equal where it is known to differ.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import parity
from examples.ports import CASES as MODELS
from examples.ports import USUAL, Given, libraries, mends, seconds, segformer, trained
from examples.ports import pair as hub


@dataclass(frozen=True)
class Study:
    """One port in one circumstance.

    Args:
        make: makes the pair.
        differs: what is known to differ, in a few words; empty where nothing is.
        mend: makes the pair equal; None where no mend is known.
        training: how both are trained, from the pair; None where only the forward pass is compared.
        refused: what the port's converter says where it cannot read what transformers saves.
        backend: what Keras 3 computes with.
    """

    make: Callable[[], parity.Pair]
    differs: str = ""
    mend: mends.Mend | None = None
    training: Callable[[parity.Pair], parity.Training] | None = None
    refused: str = ""
    backend: str = "tensorflow"

    def pair(self, *, mended: bool = False) -> parity.Pair:
        """The pair; with `mended`, without what is known to differ."""
        made = self.make()
        return self.mend(made) if mended and self.mend is not None else made


def of(name: str, given: Given = USUAL, **config: Any) -> Callable[[], parity.Pair]:
    """What makes KerasHub's port of a model of `examples.ports.CASES`, with another configuration
    or other inputs."""
    return partial(hub, name, given, **config)


UNREAD = ("esm", "gpt-oss")
"""Models of which KerasHub's converters cannot read what this version of transformers saves."""
PORTS = {name: of(name) for name in MODELS if name not in UNREAD} | {"segformer": segformer.pair}
"""KerasHub's ports, each as its models are called usually."""

HALF_AS_FAST = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
FASTER = {"rope_type": "default", "rope_theta": 500.0}
PADDED, LEFT = Given(length=9, padded=4), Given(length=9, padded=-4)
CASES = {
    "bert": Study(of("bert"), "GELU is approximated", mends.exact_gelu),
    "bert, epsilon of 1e-5": Study(
        of("bert", layer_norm_eps=1e-5),
        "GELU is approximated, the epsilon of norms is not read",
        mends.every(mends.exact_gelu, mends.epsilon(1e-5)),
    ),
    "vit": Study(of("vit"), "epsilon of norms", mends.epsilon(1e-12)),
    "llama": Study(of("llama")),
    "llama, epsilon of 1e-5": Study(
        of("llama", rms_norm_eps=1e-5), "epsilon of norms", mends.epsilon(1e-5)
    ),
    "llama, scaled positions": Study(
        of("llama", rope_parameters=HALF_AS_FAST),
        "scaling of rotary positions",
        mends.rope_scaling(2.0),
    ),
    "qwen3": Study(of("qwen3"), "epsilon of query and key norms", mends.epsilon(1e-6)),
    "distilbert": Study(of("distilbert")),
    "gpt2": Study(of("gpt2")),
    "albert": Study(of("albert")),
    "deit": Study(of("deit")),
    "qwen2": Study(of("qwen2")),
    "mixtral": Study(of("mixtral")),
    "smollm3": Study(of("smollm3")),
    "mistral": Study(of("mistral"), "weights are rounded to float16", mends.moved),
    "roberta": Study(
        of("roberta"),
        "token types are left out, epsilon of norms",
        mends.every(mends.token_types, mends.epsilon(1e-12)),
    ),
    "xlm-roberta": Study(of("xlm-roberta"), "epsilon of norms", mends.epsilon(1e-12)),
    "gemma": Study(of("gemma")),
    "resnet18": Study(of("resnet18")),
    "resnet50": Study(of("resnet50")),
    "segformer": Study(
        segformer.pair,
        "epsilon of norms, GELU is approximated, state changed by a plain call",
        segformer.mended(),
    ),
    "segformer, long images": Study(
        partial(segformer.pair, segformer.LONG),
        "height and width are taken for a root, and what differs in any",
        segformer.mended(segformer.LONG),
    ),
    # Further models.
    "bart": Study(of("bart")),
    "dinov2": Study(of("dinov2")),
    "dinov3": Study(of("dinov3")),
    "gemma2": Study(of("gemma2")),
    "gemma3": Study(of("gemma3")),
    "qwen2-moe": Study(of("qwen2-moe")),
    "qwen3-moe": Study(of("qwen3-moe")),
    "swin": Study(of("swin")),
    **{name: Study(of(name), refused="does not contain tensor") for name in UNREAD},
    # Circumstances: padding, sizes, and settings that are not a port's defaults.
    "distilbert, padded": Study(of("distilbert", PADDED)),
    "gpt2, padded": Study(of("gpt2", PADDED)),
    "llama, padded": Study(of("llama", PADDED)),
    "llama, padded first": Study(of("llama", LEFT)),
    "albert, padded, epsilon of 1e-5": Study(
        of("albert", PADDED, layer_norm_eps=1e-5), "epsilon of norms", mends.epsilon(1e-5)
    ),
    "gpt2, epsilon of 1e-4": Study(
        of("gpt2", layer_norm_epsilon=1e-4), "epsilon of norms", mends.epsilon(1e-4)
    ),
    "gpt2, relu": Study(
        of("gpt2", activation_function="relu"),
        "the activation is not read",
        mends.activation("relu"),
    ),
    "deit, epsilon of 1e-5": Study(of("deit", layer_norm_eps=1e-5)),
    "qwen2, epsilon of 1e-5, faster positions": Study(
        of("qwen2", rms_norm_eps=1e-5, rope_parameters=FASTER)
    ),
    "mixtral, epsilon of 1e-6": Study(of("mixtral", rms_norm_eps=1e-6)),
    "smollm3, epsilon of 1e-5": Study(of("smollm3", rms_norm_eps=1e-5)),
    "gemma, epsilon of 1e-5": Study(
        of("gemma", rms_norm_eps=1e-5), "epsilon of norms", mends.epsilon(1e-5)
    ),
    "gemma2, scores divided by 4": Study(
        of("gemma2", query_pre_attn_scalar=16),
        "the divisor of scores is not read",
        mends.divided_scores(16),
    ),
    "dinov2, epsilon of 1e-5": Study(
        of("dinov2", layer_norm_eps=1e-5), "epsilon of norms", mends.epsilon(1e-5)
    ),
    "dinov2, 48x48 pixels": Study(
        of("dinov2", Given(size=(48, 48))),
        "coefficient of the bicubic resize of positions",
        mends.bicubic_of_torch,
    ),
    "swin, epsilon of 1e-6": Study(
        of("swin", layer_norm_eps=1e-6),
        "epsilon of norms",
        mends.epsilon(1e-6, "*norm1", "*norm2", "norm"),
    ),
    "resnet18, 45x33 pixels": Study(of("resnet18", Given(size=(45, 33)))),
    # KerasHub on JAX.
    "gpt2 on JAX": Study(of("gpt2", PADDED), backend="jax"),
    "bert on JAX": Study(
        of("bert", PADDED), "GELU is approximated", mends.exact_gelu, backend="jax"
    ),
    "llama on JAX": Study(of("llama"), backend="jax"),
    "deit on JAX": Study(of("deit"), backend="jax"),
    # Two implementations of transformers, both trained.
    **{
        f"{name} in transformers": Study(partial(seconds.pair, name), training=trained.beside_torch)
        for name in seconds.CASES
    },
    # Other libraries.
    "garden bert": Study(
        partial(libraries.pair, "garden bert"),
        "GELU is approximated",
        lambda pair: libraries.pair("garden bert, exact"),
    ),
    "kecam gpt2": Study(
        partial(libraries.pair, "kecam gpt2"), "epsilon of norms", mends.epsilon(1e-5)
    ),
    "kecam llama": Study(
        partial(libraries.pair, "kecam llama"),
        "tables of rotary positions are computed in float32",
        mends.exact_turns,
    ),
    "kecam convnext": Study(
        partial(libraries.pair, "kecam convnext"),
        "epsilon of the last norm",
        mends.epsilon(1e-12, "head_ln"),
    ),
}
