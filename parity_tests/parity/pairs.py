"""Builds both sides of the small pair with the same weights, inputs and axis names."""

from functools import cache

import numpy as np
import torch

import tf_impl  # noqa: F401  (chooses the Keras of TensorFlow before TensorFlow is imported)
from parity.frameworks.tensorflow import capture as capture_tf
from parity.frameworks.torch import capture as capture_torch
from parity_tests.parity import tf_side, torch_side

IMAGE = (2, 3, 21, 27)


def axes_torch(path: str, kind: str, name: str, rank: int) -> str:
    """Axis names of the PyTorch side."""
    return _axes(path, name, rank, "NCHW")


def axes_tf(path: str, kind: str, name: str, rank: int) -> str:
    """Axis names of the TensorFlow side."""
    return _axes(path, name, rank, "NHWC")


def _axes(path: str, name: str, rank: int, maps: str) -> str:
    if rank != 4:
        return {3: "SNC"}.get(rank, "ABDE"[:rank])
    if path.startswith("decoder") or path == "head":
        return "LQNC"
    return "NQHW" if name == "masks" else maps


def reference_model(dtype: torch.dtype = torch.float64, seed: int = 0) -> torch_side.Model:
    """The PyTorch model, in eval mode; weights are float32 numbers in any dtype."""
    torch.manual_seed(seed)
    return torch_side.Model().eval().to(dtype)


def port_model(dtype: str = "float64", seed: int = 0) -> tf_side.Model:
    """The TensorFlow model with the same weights."""
    model = tf_side.Model(dtype=dtype)
    state = reference_model(seed=seed).state_dict()
    tf_side.load(model, {key: value.numpy() for key, value in state.items()})
    return model


def image(dtype: type = np.float64, seed: int = 0) -> np.ndarray:
    """Random images [B,3,H,W] that float32 holds exactly."""
    values = np.random.default_rng(seed).normal(size=IMAGE).astype(np.float32)
    return values.astype(dtype)


def nhwc(images: np.ndarray) -> np.ndarray:
    """The same images as TensorFlow takes them."""
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


@cache
def reference() -> tuple:
    """Recorder, float64 trace and floors of the reference; shared, because nothing changes them."""
    recorder = capture_torch.Recorder(reference_model(), axes_torch)
    _, trace = recorder((image(),))
    calls = recorder.calls
    floors = capture_torch.measure_floors(recorder, (image(),), trace)
    recorder.calls = calls
    return recorder, trace, floors


def port(model: tf_side.Model, execution: str = "eager") -> capture_tf.Recorder:
    """A recorder of the TensorFlow side."""
    return capture_tf.Recorder(model, axes_tf, execution)


@cache
def port32() -> dict[str, capture_tf.Recorder]:
    """A recorder of one sound float32 model for each execution; shared, as compiling takes time."""
    model = port_model("float32")
    return {name: port(model, name) for name in capture_tf.EXECUTIONS}
