"""Both frameworks against what the original computed, so that a mistake they share is caught.

The stored numbers are the original's float32; `f32_vs_f64_maxabs` is its own largest distance from
its float64 run. A float64 model that computes the same function is that close to them, no more.
"""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from maskformer import zoo
from maskformer.config import ModelConfig
from maskformer.images import batch_images
from parity_tests import golden_files
from replication.pair import (
    Weights,
    build_port,
    build_reference,
    load_weights,
    port_inputs,
    reference_inputs,
)

CASES = golden_files.cases()
FAMILIES = (  # one case per architecture; the others are slow
    "coco_r50_97x131",
    "coco_r50_batch2",
    "coco_r50_128x160",
    "tiny_64x96",
    "tiny_batch2",
    "tiny_enc2",
    "tiny_nodeepsup",
    "tiny_prenorm",
    "ade20k_r101c_64x96",
    "ade20k_swin_tiny_100x120",
    "ade20k_pp_128x128",
    "ade20k_ppplus_128x128",
    "ade20k_r50_pad_100x120",
)
OVERRIDES = {
    "MODEL.MASK_FORMER.ENC_LAYERS": "enc_layers",
    "MODEL.MASK_FORMER.PRE_NORM": "pre_norm",
    "MODEL.MASK_FORMER.DEEP_SUPERVISION": "deep_supervision",
}
FEATURES = ("feat_res2", "feat_res3", "feat_res4", "feat_res5", "mask_features", "encoder_features")
# The float32 numbers compared are themselves rounded once from what the case's bound was taken on.
ROUNDING = 1.0 + 1e-3


def config_of(meta: dict[str, Any]) -> ModelConfig:
    """The configuration of a golden case, with its overrides."""
    pairs = meta.get("overrides", [])
    changes = dict(zip(pairs[::2], pairs[1::2], strict=True))
    predictor = {OVERRIDES[key]: value for key, value in changes.items() if key in OVERRIDES}
    return zoo.model_config(meta["config"]).replace(predictor=predictor)


@cache
def weights_of(case: str) -> tuple[ModelConfig, Weights, np.ndarray, np.ndarray]:
    """The configuration, weights, image batch and sizes of a golden case."""
    arrays, meta = golden_files.load(case)
    config = config_of(meta)
    count = sum(key.startswith("image_") for key in arrays)
    images = [arrays[f"image_{index}"].transpose(1, 2, 0) for index in range(count)]
    batch, sizes = batch_images(images, config)
    return config, load_weights(f"seeded:{meta['seed']}", config), batch, sizes


def torch_arrays(case: str) -> dict[str, np.ndarray]:
    """What the float64 reference computes for a case, by the golden arrays' names."""
    config, weights, batch, sizes = weights_of(case)
    model = build_reference(config, weights, "float64")
    kept: dict[str, Any] = {}

    def keep(name: str):
        return lambda module, args, output: kept.__setitem__(name, output)

    model.backbone.register_forward_hook(keep("features"))
    model.sem_seg_head.pixel_decoder.register_forward_hook(keep("pixel_decoder"))
    if config.head != "PerPixelBaselineHead":
        model.sem_seg_head.predictor.transformer.register_forward_hook(keep("transformer"))
    inputs = reference_inputs(batch, sizes, "float64")
    with torch.no_grad():
        outputs = model(*(torch.from_numpy(value) for value in inputs.values()))
    return _named(kept, outputs, lambda tensor: tensor.numpy(), lambda tensor: tensor.numpy())


def port_arrays(case: str) -> dict[str, np.ndarray]:
    """What the float64 port computes for a case, by the golden arrays' names, in torch's layout."""
    config, weights, batch, sizes = weights_of(case)
    model = build_port(config, weights, "float64")
    kept: dict[str, Any] = {}

    def keep(layer: Any, name: str) -> None:
        call = layer.call

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            kept[name] = call(*args, **kwargs)
            return kept[name]

        layer.call = wrapped

    keep(model.backbone, "features")
    keep(model.sem_seg_head.pixel_decoder, "pixel_decoder")
    if config.head != "PerPixelBaselineHead":
        keep(model.sem_seg_head.predictor.transformer, "transformer")
    outputs = model(**port_inputs(batch, sizes, "float64"))
    return _named(
        kept, outputs, lambda tensor: tensor.numpy().transpose(0, 3, 1, 2), lambda t: t.numpy()
    )


def _named(kept: dict[str, Any], outputs: dict[str, Any], image: Any, plain: Any) -> dict[str, Any]:
    arrays = {f"feat_{name}": image(tensor) for name, tensor in kept["features"].items()}
    mask_features, encoded = kept["pixel_decoder"]
    arrays["mask_features"] = image(mask_features)
    if encoded is not None:
        arrays["encoder_features"] = image(encoded)
    if "transformer" in kept:
        arrays["hs"] = plain(kept["transformer"][0])
    for name in ("pred_logits", "pred_masks"):
        if name in outputs:
            arrays[name] = plain(outputs[name])
            layers = [plain(layer[name]) for layer in outputs.get("aux_outputs", [])]
            if layers:
                arrays[f"aux_{name.removeprefix('pred_')}"] = np.stack(layers)
    return arrays


def distances(case: str, found: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """For each stored array: the largest distance of `found` from it, and the limit."""
    arrays, meta = golden_files.load(case)
    bounds = meta["f32_vs_f64_maxabs"]
    result = {}
    for name, values in found.items():
        if name not in arrays:
            continue
        stored = arrays[name].astype(np.float64)
        distance = np.abs(golden_files.select(arrays, name, values) - stored).max()
        # Arrays without a bound of their own take that of the final output they are earlier
        # layers of, or of the features they are made from.
        kin = {"aux_logits": "pred_logits", "aux_masks": "pred_masks", "encoder_features": "hs"}
        bound = bounds.get(name, bounds.get(kin.get(name, "")))
        if name.startswith("aux_") or bound is None:
            bound = _relative_bound(arrays, bounds, name, kin)
        result[name] = (float(distance), float(bound) * ROUNDING)
    return result


def _relative_bound(arrays: Any, bounds: Any, name: str, kin: dict[str, str]) -> float:
    """The bound of the array's kin, scaled to its own largest magnitude."""
    other = kin.get(name, "mask_features")
    return bounds[other] * arrays[f"{name}__stats"][2] / arrays[f"{other}__stats"][2]


def problems(case: str, found: dict[str, np.ndarray]) -> list[str]:
    """Every golden array that `found` misses or that is too far away, as a sentence."""
    arrays, _ = golden_files.load(case)
    expected = {n for n in (*FEATURES, "hs", "pred_logits", "pred_masks") if n in arrays}
    lines = [f"{name} was not computed [{case}]" for name in sorted(expected - set(found))]
    for name, (distance, limit) in distances(case, found).items():
        if not distance <= limit:
            lines.append(
                f"{name} is {distance:.2g} away from the original, but should be below {limit:.2g}"
                f" [{case}, float64]"
            )
    return lines


def marked(cases: list[str]) -> list[Any]:
    """The cases as parameters; those outside FAMILIES are slow."""
    slow = [pytest.mark.slow]
    return [pytest.param(case, marks=[] if case in FAMILIES else slow) for case in cases]


@pytest.mark.parametrize("case", marked(CASES))
def test_reference_computes_what_the_original_computed(case):
    assert problems(case, torch_arrays(case)) == []


@pytest.mark.parametrize("case", marked(CASES))
def test_port_computes_what_the_original_computed(case):
    assert problems(case, port_arrays(case)) == []


def test_golden_comparison_sees_one_epsilon(monkeypatch):
    """The twin: frozen batch norm with epsilon 1e-3, as Keras would have it."""
    import tf_impl.layers

    monkeypatch.setattr(tf_impl.layers, "NORM_EPSILON", 1e-3)
    lines = problems("tiny_64x96", port_arrays("tiny_64x96"))
    assert len(lines) >= 8
    assert lines[0].startswith("feat_res2 is ")


@pytest.mark.parametrize(
    "name", sorted(p.stem for p in golden_files.DIRECTORY.glob("state_spec/*"))
)
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
