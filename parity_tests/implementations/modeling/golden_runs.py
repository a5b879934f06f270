"""What both sides compute for the golden cases, by the names of the stored arrays."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch

import tf_impl  # noqa: F401 (selects tf_keras before TensorFlow is imported)
from maskformer.data.images import batch_images
from maskformer.model import zoo
from maskformer.model.config import ModelConfig
from parity_tests import golden_files
from replication.sides.tf_side import build_port, port_inputs
from replication.sides.torch_side import build_reference, reference_inputs
from replication.sides.weights import Weights, load_weights
from torch_reference.modeling.position_encoding import PositionEmbeddingSine

OVERRIDES = {
    "MODEL.MASK_FORMER.ENC_LAYERS": "enc_layers",
    "MODEL.MASK_FORMER.PRE_NORM": "pre_norm",
    "MODEL.MASK_FORMER.DEEP_SUPERVISION": "deep_supervision",
}


def config_of(meta: dict[str, Any]) -> ModelConfig:
    """The configuration of a golden case, with its overrides."""
    pairs = meta.get("overrides", [])
    changes = dict(zip(pairs[::2], pairs[1::2], strict=True))
    predictor = {OVERRIDES[key]: value for key, value in changes.items() if key in OVERRIDES}
    return zoo.model_config(meta["config"]).replace(predictor=predictor)


@lru_cache(maxsize=1)
def weights_of(case: str) -> tuple[ModelConfig, Weights, np.ndarray, np.ndarray]:
    """The configuration, weights, image batch and sizes of a golden case."""
    arrays, meta = golden_files.load(case)
    config = config_of(meta)
    count = sum(key.startswith("image_") for key in arrays)
    images = [arrays[f"image_{index}"].transpose(1, 2, 0) for index in range(count)]
    batch, sizes = batch_images(images, config)
    return config, load_weights(f"seeded:{meta['seed']}", config), batch, sizes


@lru_cache(maxsize=2)
def torch_arrays(case: str, positions: torch.dtype = torch.float32) -> dict[str, np.ndarray]:
    """What the float64 reference computes for a case, by the golden arrays' names.

    The position encoding is computed in the dtype `positions`.
    """
    config, weights, batch, sizes = weights_of(case)
    model = build_reference(config, weights, "float64")
    kept: dict[str, Any] = {}

    def keep(name: str):
        return lambda module, args, output: kept.__setitem__(name, output)

    for module in model.modules():
        if isinstance(module, PositionEmbeddingSine):
            module.register_forward_pre_hook(lambda module, args: (args[0].to(positions),))
    model.backbone.register_forward_hook(keep("features"))
    model.sem_seg_head.pixel_decoder.register_forward_hook(keep("pixel_decoder"))
    if config.head != "PerPixelBaselineHead":
        model.sem_seg_head.predictor.register_forward_hook(keep("predictor"))
        model.sem_seg_head.predictor.transformer.register_forward_hook(keep("transformer"))
    inputs = reference_inputs(batch, sizes, "float64")
    with torch.no_grad():
        model(*(torch.from_numpy(value) for value in inputs.values()))
    return _named(kept, lambda tensor: tensor.numpy(), lambda tensor: tensor.numpy())


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
        keep(model.sem_seg_head.predictor, "predictor")
        keep(model.sem_seg_head.predictor.transformer, "transformer")
    model(**port_inputs(batch, sizes, "float64"))
    return _named(kept, lambda tensor: tensor.numpy().transpose(0, 3, 1, 2), lambda t: t.numpy())


def _named(kept: dict[str, Any], image: Any, plain: Any) -> dict[str, Any]:
    """The kept results of modules by the golden arrays' names.

    Masks are the predictor's: the per-pixel heads upsample them, the stored ones are not.
    """
    arrays = {f"feat_{name}": image(tensor) for name, tensor in kept["features"].items()}
    mask_features, encoded = kept["pixel_decoder"]
    arrays["mask_features"] = image(mask_features)
    if encoded is not None:
        arrays["encoder_features"] = image(encoded)
    if "transformer" in kept:
        arrays["hs"] = plain(kept["transformer"][0])
    outputs = kept.get("predictor", {})
    for name in ("pred_logits", "pred_masks"):
        if name in outputs:
            arrays[name] = plain(outputs[name])
            layers = [plain(layer[name]) for layer in outputs.get("aux_outputs", [])]
            if layers:
                arrays[f"aux_{name.removeprefix('pred_')}"] = np.stack(layers)
    return arrays
