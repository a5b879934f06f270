"""Both frameworks against what the original computed, so that a mistake they share is caught.

The stored numbers are the original's float32; `f32_vs_f64_maxabs` is its own largest distance from
its float64 run. A float64 model that computes the same function is just as far from them. The
original's position encoding stays float32 in a float64 model, so the reference is run that way
here, and the port is allowed what that alone changes.
"""

from typing import Any

import numpy as np
import pytest
import torch

import tf_impl  # selects tf_keras before TensorFlow is imported
from maskformer.model import zoo
from maskformer.model.config import ModelConfig
from parity_tests import golden_files
from parity_tests.implementations.modeling.golden_runs import port_arrays, torch_arrays
from weight_conversion.layouts import tf_variables, torch_shapes

CASES = golden_files.cases()
FAMILIES = (  # one full-size case per family and every variant of the small model; others are slow
    "coco_r50_97x131",
    "tiny_64x96",
    "tiny_batch2",
    "tiny_enc2",
    "tiny_nodeepsup",
    "tiny_prenorm",
    "ade20k_r101c_64x96",
    "ade20k_swin_tiny_100x120",
    "ade20k_pp_128x128",
    "ade20k_ppplus_128x128",
)
# The golden cases assign every tensor by name and shape too, for their own configurations.
PORT_SPECS = ("tiny",)
FEATURES = ("feat_res2", "feat_res3", "feat_res4", "feat_res5", "mask_features", "encoder_features")
# Summing in another order moves a float64 distance by far less than this part of it.
ROUNDING = 1.0 + 1e-6
# Arrays without a stored distance get the precision claim's factor over that of their kin.
UNSTORED = 4.0
KIN = {"aux_logits": "pred_logits", "aux_masks": "pred_masks", "hs": "mask_features"}


def limit_of(case: str, name: str) -> float:
    """The largest distance from a stored array that a float64 run of the same function has."""
    arrays, meta = golden_files.load(case)
    bounds = meta["f32_vs_f64_maxabs"]
    if name in bounds:
        return bounds[name] * ROUNDING
    kin = KIN.get(name, "mask_features")
    if kin not in bounds:
        kin = "mask_features"
    scale = arrays[f"{name}__stats"][2] / arrays[f"{kin}__stats"][2]
    return UNSTORED * bounds[kin] * scale


def problems(case: str, found: dict[str, np.ndarray], allowed: dict[str, float]) -> list[str]:
    """Every golden array that `found` misses or that is too far away, as a sentence.

    `allowed` is added to the limit of each array.
    """
    arrays, _ = golden_files.load(case)
    names = (*FEATURES, "hs", "pred_logits", "pred_masks", "aux_logits", "aux_masks")
    expected = [name for name in names if name in arrays]
    lines = [f"{name} was not computed [{case}]" for name in expected if name not in found]
    for name in expected:
        if name not in found:
            continue
        stored = arrays[name].astype(np.float64)
        distance = np.abs(golden_files.select(arrays, name, found[name]) - stored).max()
        limit = limit_of(case, name) + allowed.get(name, 0.0)
        if not distance <= limit:
            lines.append(
                f"{name} is {distance:.9g} away from the original, but should be below {limit:.9g}"
                f" [{case}, float64]"
            )
    return lines


def effect_of_positions(case: str) -> dict[str, float]:
    """By how much float32 positions alone move each array of the float64 reference."""
    single, double = torch_arrays(case), torch_arrays(case, torch.float64)
    return {name: float(np.abs(single[name] - double[name]).max()) for name in single}


def marked(cases: list[str]) -> list[Any]:
    """The cases as parameters; those outside FAMILIES are slow."""
    slow = [pytest.mark.slow]
    return [pytest.param(case, marks=[] if case in FAMILIES else slow) for case in cases]


@pytest.mark.parametrize("case", marked(CASES))
def test_reference_computes_what_the_original_computed(case):
    assert problems(case, torch_arrays(case), {}) == []


@pytest.mark.parametrize("case", marked(CASES))
def test_port_computes_what_the_original_computed(case):
    assert problems(case, port_arrays(case), effect_of_positions(case)) == []


def test_golden_comparison_sees_one_epsilon(monkeypatch):
    """The twin: frozen batch norm with epsilon 1e-3, as Keras would have it."""
    import tf_impl.layers

    monkeypatch.setattr(tf_impl.layers, "NORM_EPSILON", 1e-3)
    lines = problems("tiny_64x96", port_arrays("tiny_64x96"), effect_of_positions("tiny_64x96"))
    assert len(lines) >= 8
    assert lines[0].startswith("feat_res2 is ")


SPECS = sorted(path.stem for path in golden_files.DIRECTORY.glob("state_spec/*"))


@pytest.mark.parametrize("name", SPECS)
def test_state_dict_equals_the_original_s(name):
    import torch_reference

    spec = golden_files.read_json(f"state_spec/{name}.json")
    with torch.device("meta"):
        model = torch_reference.build(zoo.model_config(name))
    buffers = {key for key, _ in model.named_buffers()}
    found = [
        [key, list(tensor.shape), str(tensor.dtype).removeprefix("torch."), key in buffers]
        for key, tensor in model.state_dict().items()
    ]
    assert found == spec["entries"]
    assert sum(p.numel() for p in model.parameters()) == spec["num_parameters"]


def port_shapes(config: ModelConfig) -> dict[str, tuple[tuple[int, ...], str]]:
    """The torch shapes and dtypes of the port's variables, built in a graph, without memory."""
    import tensorflow as tf

    with tf.Graph().as_default():
        return torch_shapes(tf_variables(tf_impl.build(config)))


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in PORT_SPECS else pytest.mark.slow) for n in SPECS],
)
def test_port_s_variables_equal_the_original_s_state_dict(name):
    entries = golden_files.read_json(f"state_spec/{name}.json")["entries"]
    expected = {key: (tuple(shape), dtype) for key, shape, dtype, _ in entries}
    assert port_shapes(zoo.model_config(name)) == expected


def test_port_s_variables_follow_the_configuration():
    """The twin: one query more changes one variable."""
    config = zoo.model_config("tiny")
    found = port_shapes(config.replace(predictor={"num_queries": 21}))
    entries = golden_files.read_json("state_spec/tiny.json")["entries"]
    different = [key for key, shape, *_ in entries if found[key][0] != tuple(shape)]
    assert different == ["sem_seg_head.predictor.query_embed.weight"]
