"""The same weights on both sides, and every tap of the port judged against the reference."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

import tf_impl  # noqa: F401 (selects tf_keras before TensorFlow is imported)
from maskformer.data.images import batch_images, synthetic_image
from maskformer.model import zoo
from maskformer.model.config import ModelConfig
from parity.frameworks.tensorflow import capture as capture_tf
from parity.frameworks.torch import capture as capture_torch
from parity.judge import Verdict, same_function, same_precision
from parity.pairing import Comparison
from parity.trace import Trace
from replication.sides.tf_side import PORT_AXES, build_port, port_inputs
from replication.sides.torch_side import REFERENCE_AXES, build_reference, reference_inputs
from replication.sides.weights import Weights, load_weights
from weight_conversion.layouts import torch_to_tf

CHANNELS_FIRST = (0, 3, 1, 2)


@dataclass(frozen=True)
class Block:
    """One module on both sides: torch in float32, TF in float32 and float64, the same weights."""

    reference: torch.nn.Module
    port: Mapping[str, Any]


def block(reference: torch.nn.Module, build: Any, seed: int = 0) -> Block:
    """`reference` with random weights, and the module that `build()` makes, with the same."""
    from tf_keras import mixed_precision

    generator = torch.Generator().manual_seed(seed)
    for tensor in [*reference.parameters(), *reference.buffers()]:
        if tensor.dtype.is_floating_point:
            scale = 1.0 / np.sqrt(max(tensor[0].numel(), 1)) if tensor.dim() > 1 else 0.3
            tensor.data = scale * torch.randn(tensor.shape, generator=generator)
    for name, buffer in reference.named_buffers():
        if name.endswith("running_var"):
            buffer.data = buffer.abs() + 0.5
    state = {key: tensor.numpy() for key, tensor in reference.state_dict().items()}
    port = {}
    for dtype in ("float32", "float64"):
        before = mixed_precision.global_policy()
        mixed_precision.set_global_policy(dtype)
        port[dtype] = build()
        mixed_precision.set_global_policy(before)
        torch_to_tf(state, port[dtype])
    return Block(reference.eval(), port)


def judge_block(
    block: Block,
    inputs: Mapping[str, Any],
    port_layout: Any = None,
    axes: Mapping[str, Any] | None = None,
    execution: str = "eager",
) -> dict[str, list[Verdict]]:
    """The verdicts on all taps of a block: "float64" (same function), "float32" (same precision).

    `inputs` are the reference's arguments, float64; `port_layout` turns one array into the port's
    layout, by default NCHW to NHWC. `axes` are the axis functions "reference" and "port".
    """
    axes = axes or {"reference": REFERENCE_AXES, "port": PORT_AXES}
    layout = port_layout or nhwc
    reference64 = copy.deepcopy(block.reference).double()
    recorder = capture_torch.Recorder(reference64, axes["reference"])
    _, trace = recorder(dict(inputs))
    floors = capture_torch.measure_floors(recorder, dict(inputs), trace)
    function = same_function(
        _gaps(block.port["float64"], axes, execution, _mapped(inputs, layout), trace), floors
    )
    inputs32 = _mapped(inputs, lambda array: array.astype(np.float32))
    recorder32 = capture_torch.Recorder(block.reference, axes["reference"])
    comparison = Comparison(trace)
    recorder32(dict(inputs32), comparison)
    floors32 = capture_torch.measure_floors(recorder32, dict(inputs32), trace)
    precision = same_precision(
        _gaps(block.port["float32"], axes, execution, _mapped(inputs32, layout), trace),
        comparison.gaps,
        floors32,
    )
    return {"float64": function, "float32": precision}


def _gaps(model: Any, axes: Mapping[str, Any], execution: str, inputs: Any, trace: Trace) -> Any:
    comparison = Comparison(trace)
    capture_tf.Recorder(model, axes["port"], execution)(dict(inputs), comparison)
    assert not comparison.unpaired, f"only in the port: {comparison.unpaired}"
    assert not comparison.missing(), f"only in the reference: {comparison.missing()}"
    return comparison.gaps


def _mapped(value: Any, change: Any) -> Any:
    """`value` with `change` applied to each float array in it."""
    if isinstance(value, Mapping):
        return {key: _mapped(one, change) for key, one in value.items()}
    return change(value) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value


def nhwc(array: np.ndarray) -> np.ndarray:
    """A feature map from NCHW to NHWC; other ranks unchanged."""
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def batch_first(array: np.ndarray) -> np.ndarray:
    """Tokens from [S,N,C] to [N,S,C]; feature maps from NCHW to NHWC."""
    return array.transpose(1, 0, 2) if array.ndim == 3 else nhwc(array)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal float64 numbers that float32 holds exactly."""
    drawn = np.random.default_rng(seed).standard_normal(shape)
    return drawn.astype(np.float32).astype(np.float64)


def failures(verdicts: dict[str, list[Verdict]]) -> list[str]:
    """All failed verdicts as sentences."""
    return [str(one) for same in verdicts.values() for one in same if not one.passed]


@dataclass(frozen=True)
class Whole:
    """A whole model in float64 on the reference side, with its trace and rounding floors."""

    config: ModelConfig
    weights: Weights
    batch: np.ndarray
    sizes: np.ndarray
    reference: capture_torch.Recorder
    trace: Trace
    floors: Mapping[str, Any]


@cache
def whole(name: str, seed: int, height: int, width: int) -> Whole:
    """The zoo's configuration `name` with seeded weights on one synthetic image."""
    config = zoo.model_config(name)
    weights = load_weights(f"seeded:{seed}", config)
    batch, sizes = batch_images([synthetic_image(height, width, 0)], config)
    recorder = capture_torch.Recorder(
        build_reference(config, weights, "float64"), REFERENCE_AXES, clone=False
    )
    inputs = reference_inputs(batch, sizes, "float64")
    _, trace = recorder(inputs)
    floors = capture_torch.measure_floors(recorder, inputs, trace)
    return Whole(config, weights, batch, sizes, recorder, trace, floors)


@cache
def whole_port(name: str, seed: int, height: int, width: int) -> capture_tf.Recorder:
    """The TF side of `whole`, float64, eager."""
    side = whole(name, seed, height, width)
    return capture_tf.Recorder(build_port(side.config, side.weights, "float64"), PORT_AXES, "eager")


def whole_inputs(side: Whole) -> dict[str, Any]:
    """The port's float64 inputs for `side`."""
    return port_inputs(side.batch, side.sizes, "float64")
