"""MaskFormer in TensorFlow, in the Model Garden's style. Mirrors `torch_reference` file by file.

Importing this package selects tf_keras (Keras 2), which the Model Garden 2.20 is written for; it is
the only place that does.
"""

import os
from typing import TYPE_CHECKING

from maskformer.model.config import ModelConfig

if TYPE_CHECKING:
    from tf_impl.modeling.maskformer import MaskFormer

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no notes on hardware that is not there


def build(config: ModelConfig, dtype: str = "float32") -> "MaskFormer":
    """The model that `config` describes, randomly initialised, computing in `dtype`.

    `dtype` is a tf_keras policy name: "float32", "float64" or "mixed_bfloat16". All variables
    exist on return; the model traces once per input shape and compiles with `jit_compile=True`.
    """
    from tf_keras import mixed_precision

    from tf_impl.modeling.maskformer import MaskFormer

    previous = mixed_precision.global_policy()
    mixed_precision.set_global_policy(dtype)
    try:
        return MaskFormer(config)
    finally:
        mixed_precision.set_global_policy(previous)
