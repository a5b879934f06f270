"""What is known of ports by others, circumstance by circumstance: equal, or what differs.

A case is one line: the port (`examples.ports.EVERY`), its configuration, and the mend that makes it
equal where it is known to differ.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import parity
from examples import ports
from examples.ports import mends, segformer


@dataclass(frozen=True)
class Study:
    """One port in one circumstance.

    Args:
        port: the name of a port in `examples.ports.EVERY`.
        config: changes of the reference's configuration.
        size: height and width of images, where they are others than the port's own case has.
        differs: what is known to differ, in a few words; empty where nothing is.
        mend: makes the port equal; None where no mend is known.
    """

    port: str
    config: Mapping[str, Any] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    differs: str = ""
    mend: mends.Mend | None = None


HALF_AS_FAST = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
CASES = {
    "bert": Study("bert", differs="GELU is approximated", mend=mends.exact_gelu),
    "bert, epsilon of 1e-5": Study(
        "bert",
        {"layer_norm_eps": 1e-5},
        differs="GELU is approximated, the epsilon of norms is not read",
        mend=mends.every(mends.exact_gelu, mends.epsilon(1e-5)),
    ),
    "vit": Study("vit", differs="epsilon of norms", mend=mends.epsilon(1e-12)),
    "llama": Study("llama"),
    "llama, epsilon of 1e-5": Study(
        "llama", {"rms_norm_eps": 1e-5}, differs="epsilon of norms", mend=mends.epsilon(1e-5)
    ),
    "llama, scaled positions": Study(
        "llama",
        {"rope_parameters": HALF_AS_FAST},
        differs="scaling of rotary positions",
        mend=mends.rope_scaling(2.0),
    ),
    "qwen3": Study("qwen3", differs="epsilon of query and key norms", mend=mends.epsilon(1e-6)),
    "distilbert": Study("distilbert"),
    "gpt2": Study("gpt2"),
    "albert": Study("albert"),
    "deit": Study("deit"),
    "qwen2": Study("qwen2"),
    "mixtral": Study("mixtral"),
    "smollm3": Study("smollm3"),
    "mistral": Study("mistral", differs="weights are rounded to float16"),
    "roberta": Study(
        "roberta", differs="token types and two positions are left out, epsilon of norms"
    ),
    "xlm-roberta": Study("xlm-roberta", differs="epsilon of norms", mend=mends.epsilon(1e-12)),
    "gemma": Study("gemma", differs="the scale of embeddings is a float32 number"),
    "resnet18": Study("resnet18"),
    "resnet50": Study("resnet50"),
    "segformer": Study(
        "segformer",
        differs="epsilon of norms, GELU is approximated, state changed by a plain call",
    ),
    "segformer, long images": Study(
        "segformer", size=segformer.LONG, differs="height and width are taken for a root"
    ),
}


def pair(case: Study, *, mended: bool = False) -> parity.Pair:
    """The case's pair; with `mended`, the port is built with the case's mend."""
    if case.port == "segformer":
        made = segformer.pair(case.size or segformer.SQUARE)
    else:
        made = ports.pair(case.port, **case.config)
    if not mended or case.mend is None:
        return made
    build, mend = made.port, case.mend

    def build_mended() -> Any:
        model = build()
        mend(model)
        return model

    return parity.Pair(made.reference, build_mended, made.inputs, made.port_inputs)
