"""Builds both sides of a comparison from one configuration and one set of weights."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maskformer.model.config import ModelConfig
from maskformer.model.tensor_axes import axis_names
from parity.errors import InputError

if TYPE_CHECKING:
    import tf_keras
    import torch

REFERENCE_AXES = partial(axis_names, image="NCHW", tokens="SNC")
PORT_AXES = partial(axis_names, image="NHWC", tokens="NSC")
REFERENCES = ("builtin", "original", "hf")


@dataclass(frozen=True)
class Weights:
    """A complete state dict in torch's layout, where it came from, and its sha256."""

    state: Mapping[str, np.ndarray]
    source: str
    sha256: str


def load_weights(spec: str, config: ModelConfig) -> Weights:
    """The weights that `seeded:N` or a file name stands for, checked against `config`.

    Raises InputError for a bad seed, an unreadable file, and for missing, unexpected, mis-shaped or
    non-finite tensors, listing them all.
    """
    import torch_reference
    from weight_conversion.layouts import check_complete

    model = torch_reference.build(config)
    own = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    if spec.startswith("seeded:"):
        from maskformer.model.seeded import seeded_state

        seed = spec.removeprefix("seeded:")
        if not seed.isdigit():
            raise InputError(
                f"--weights {spec!r} has no seed",
                "expected seeded:N with a whole number N",
                "for example --weights seeded:7",
            )
        drawn = seeded_state([(key, array.shape) for key, array in own.items()], int(seed))
        state = {key: drawn.get(key, array) for key, array in own.items()}
    else:
        from weight_conversion.checkpoints import open_source
        from weight_conversion.plan import make_plan

        with open_source(Path(spec)) as source:
            plan = make_plan(source, config)
            state = {one.spec.name: one.combine(one.load_sources()) for one in plan.pairs}
        check_complete(state, {key: (array.shape, array.dtype.name) for key, array in own.items()})
        state = {key: state[key] for key in own}
    return Weights(state, spec, state_digest(state))


def state_digest(state: Mapping[str, np.ndarray]) -> str:
    """sha256 over names, dtypes, shapes and bytes of a state dict, in its order."""
    digest = hashlib.sha256()
    for key, array in state.items():
        digest.update(f"{key} {array.dtype.name} {list(array.shape)}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def build_reference(
    config: ModelConfig, weights: Weights, dtype: str, kind: str = "builtin"
) -> "torch.nn.Module":
    """The PyTorch model in eval mode with `weights`, computing in `dtype`.

    `kind` "original" builds facebookresearch/MaskFormer itself, "hf" transformers' MaskFormer, each
    where it is installed.
    """
    import torch

    if kind == "hf":
        from weight_conversion import hugging_face_model

        return hugging_face_model.build(config, weights.state).to(getattr(torch, dtype))
    if kind == "original":
        from torch_reference import original

        model = original.build(config)
    else:
        import torch_reference

        model = torch_reference.build(config)
    tensors = {key: torch.from_numpy(np.array(array)) for key, array in weights.state.items()}
    model.load_state_dict(tensors)
    return model.eval().to(getattr(torch, dtype))


def build_port(config: ModelConfig, weights: Weights, dtype: str) -> "tf_keras.Model":
    """The TensorFlow model with `weights`, computing in `dtype`."""
    import tf_impl
    from weight_conversion.layouts import torch_to_tf

    model = tf_impl.build(config, dtype)
    torch_to_tf(weights.state, model)
    return model


def reference_inputs(batch: np.ndarray, sizes: np.ndarray, dtype: str) -> dict[str, Any]:
    """The PyTorch model's arguments for a batch uint8 [N,H,W,3] and its sizes int32 [N,2]."""
    return {"images": batch.transpose(0, 3, 1, 2).astype(dtype), "sizes": sizes}


def port_inputs(batch: np.ndarray, sizes: np.ndarray, dtype: str) -> dict[str, Any]:
    """The TensorFlow model's arguments for a batch uint8 [N,H,W,3] and its sizes int32 [N,2]."""
    return {"images": batch.astype(dtype), "sizes": sizes}
