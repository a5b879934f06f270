"""Reads the original's YAML configs into zoo entries, and executes nothing of them.

Understood are `_BASE_` chains, `KEY VALUE` overrides, tuples written as strings, and the one Python
expression the originals use, a list of scaled sizes. Every key is either read, or fixed to the
value all published configs have, or known to have no effect on what is computed; any other key is
an error that names it.
"""

import ast
import difflib
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from maskformer import ade20k, coco
from maskformer.model import own_config
from maskformer.model.config import (
    FEATURES,
    InferenceConfig,
    LossConfig,
    ModelConfig,
    PixelDecoderConfig,
    PredictorConfig,
    ResNetConfig,
    SwinConfig,
)
from maskformer.model.inputs import CropConfig, InputConfig
from maskformer.model.solver import SolverConfig
from maskformer.model.zoo import ENTRIES, Entry, get, is_file
from parity.errors import InputError
from parity.reading import bounds
from parity.reading.content import read_text

# Keys that are read, with their defaults: detectron2's `config/defaults.py`, its
# `projects/DeepLab/deeplab/config.py`, and the original's `mask_former/config.py`.
_DEFAULTS: dict[str, Any] = {
    "DATASETS.TEST": (),
    "DATASETS.TRAIN": (),
    "INPUT.COLOR_AUG_SSD": False,
    "INPUT.CROP.ENABLED": False,
    "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": 1.0,
    "INPUT.CROP.SIZE": (0.9, 0.9),
    "INPUT.CROP.TYPE": "relative_range",
    "INPUT.DATASET_MAPPER_NAME": "mask_former_semantic",
    "INPUT.MAX_SIZE_TEST": 1333,
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MIN_SIZE_TRAIN": (800,),
    "INPUT.SIZE_DIVISIBILITY": -1,
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.MASK_FORMER.DEC_LAYERS": 6,
    "MODEL.MASK_FORMER.DEEP_SUPERVISION": True,
    "MODEL.MASK_FORMER.DICE_WEIGHT": 1.0,
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 2048,
    "MODEL.MASK_FORMER.DROPOUT": 0.1,
    "MODEL.MASK_FORMER.ENC_LAYERS": 0,
    "MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ": False,
    "MODEL.MASK_FORMER.HIDDEN_DIM": 256,
    "MODEL.MASK_FORMER.MASK_WEIGHT": 20.0,
    "MODEL.MASK_FORMER.NHEADS": 8,
    "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": 0.1,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 100,
    "MODEL.MASK_FORMER.PRE_NORM": False,
    "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": 32,
    "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": 0.0,
    "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD": 0.0,
    "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": False,
    "MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": False,
    "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": "res5",
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.PIXEL_MEAN": (103.530, 116.280, 123.675),
    "MODEL.PIXEL_STD": (1.0, 1.0, 1.0),
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 256,
    "MODEL.RESNETS.RES4_DILATION": 1,
    "MODEL.RESNETS.RES5_DILATION": 1,
    "MODEL.RESNETS.RES5_MULTI_GRID": (1, 2, 4),
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
    "MODEL.RESNETS.STEM_TYPE": "deeplab",
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 128,
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": 255,
    "MODEL.SEM_SEG_HEAD.MASK_DIM": 256,
    "MODEL.SEM_SEG_HEAD.NAME": "SemSegFPNHead",
    "MODEL.SEM_SEG_HEAD.NORM": "GN",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 54,
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "BasePixelDecoder",
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 0,
    "MODEL.SWIN.ATTN_DROP_RATE": 0.0,
    "MODEL.SWIN.DEPTHS": (2, 2, 6, 2),
    "MODEL.SWIN.DROP_PATH_RATE": 0.3,
    "MODEL.SWIN.DROP_RATE": 0.0,
    "MODEL.SWIN.EMBED_DIM": 96,
    "MODEL.SWIN.MLP_RATIO": 4.0,
    "MODEL.SWIN.NUM_HEADS": (3, 6, 12, 24),
    "MODEL.SWIN.PATCH_NORM": True,
    "MODEL.SWIN.PATCH_SIZE": 4,
    "MODEL.SWIN.PRETRAIN_IMG_SIZE": 224,
    "MODEL.SWIN.QKV_BIAS": True,
    "MODEL.SWIN.QK_SCALE": None,
    "MODEL.SWIN.WINDOW_SIZE": 7,
    "MODEL.WEIGHTS": "",
    "SOLVER.BACKBONE_MULTIPLIER": 0.1,
    "SOLVER.BASE_LR": 0.001,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "value",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 1.0,
    "SOLVER.CLIP_GRADIENTS.ENABLED": False,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": 2.0,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "SOLVER.MAX_ITER": 40_000,
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.OPTIMIZER": "ADAMW",
    "SOLVER.POLY_LR_POWER": 0.9,
    "SOLVER.STEPS": (30_000,),
    "SOLVER.WARMUP_FACTOR": 0.001,
    "SOLVER.WARMUP_ITERS": 1000,
    "SOLVER.WARMUP_METHOD": "linear",
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.WEIGHT_DECAY_EMBED": 0.0,
    "SOLVER.WEIGHT_DECAY_NORM": 0.0,
    "TEST.AUG.FLIP": True,
    "TEST.AUG.MAX_SIZE": 4000,
    "TEST.AUG.MIN_SIZES": (400, 500, 600, 700, 800, 900, 1000, 1100, 1200),
    "TEST.EVAL_PERIOD": 0,
}

# Keys with one possible value: (default, the value every published config has).
_FIXED: dict[str, tuple[Any, Any]] = {
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": (True, True),
    "INPUT.FORMAT": ("BGR", "RGB"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "choice"),
    "INPUT.RANDOM_FLIP": ("horizontal", "horizontal"),
    "MODEL.BACKBONE.FREEZE_AT": (2, 0),
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": ((False,) * 4, (False,) * 4),
    "MODEL.RESNETS.NUM_GROUPS": (1, 1),
    "MODEL.RESNETS.OUT_FEATURES": (("res4",), FEATURES),
    "MODEL.RESNETS.WIDTH_PER_GROUP": (64, 64),
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": (4, 4),
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": (("p2", "p3", "p4", "p5"), FEATURES),
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": (1.0, 1.0),
    "MODEL.SWIN.APE": (False, False),
    "MODEL.SWIN.OUT_FEATURES": (FEATURES, FEATURES),
    "SOLVER.AMP.ENABLED": (False, False),
    "SOLVER.BIAS_LR_FACTOR": (1.0, 1.0),
    "SOLVER.NESTEROV": (False, False),
    "SOLVER.POLY_LR_CONSTANT_ENDING": (0.0, 0.0),
    "SOLVER.REFERENCE_WORLD_SIZE": (0, 0),
    "SOLVER.WEIGHT_DECAY_BIAS": (None, None),
    "TEST.AUG.ENABLED": (False, False),
    "VERSION": (2, 2),
}

# Keys of machines, files and logs: any value computes the same.
_WITHOUT_EFFECT = frozenset(
    (
        *("CUDNN_BENCHMARK", "DATALOADER.NUM_WORKERS", "MODEL.DEVICE", "OUTPUT_DIR", "SEED"),
        *("SOLVER.CHECKPOINT_PERIOD", "TEST.EXPECTED_RESULTS", "VIS_PERIOD"),
    )
)

_META_ARCHITECTURE = {
    "MaskFormerHead": "MaskFormer",
    "PerPixelBaselineHead": "SemanticSegmentor",
    "PerPixelBaselinePlusHead": "SemanticSegmentor",
}
_THING_IDS = {
    "ade20k_panoptic_train": ade20k.THING_IDS,
    "coco_2017_train_panoptic": coco.THING_IDS,
}
_NUMBER = r"\d+(?:\.\d*)?"
_SCALED_SIZES = re.compile(
    rf"\[int\((?P<name>[a-z]\w*)(?P<factors>(?:\*{_NUMBER})+)\)"
    rf"for(?P=name)inrange\((?P<range>\d+(?:,\d+){{0,2}})\)\]"
)
_MOST_SIZES = 1000
_MOST_VALUES = 10_000


def read(path: str | Path, overrides: Sequence[str] = ()) -> Entry:
    """The zoo entry that the YAML file `path` with `overrides` describes.

    Args:
        path: a detectron2 config of MaskFormer; its `_BASE_` files are relative to it.
        overrides: keys and values in turn, as detectron2's command line takes them, for example
            ``["MODEL.MASK_FORMER.DROPOUT", "0.0"]``.

    Returns:
        The published entry where all settings equal one; else one named after the file.

    Raises:
        InputError: a file cannot be read, a key is unknown, or a value cannot be expressed here.
    """
    path = Path(path)
    values = _read_chain(path, ())
    values.update(_read_overrides(overrides))
    _refuse_unknown(path, values)
    settings = {
        key: _typed(path, key, values.get(key, default), default)
        for key, default in _DEFAULTS.items()
    }
    _check_fixed(path, values)
    entry = _entry(path, settings)
    return next((known for known in ENTRIES.values() if _same(known, entry)), entry)


def resolve(
    config: str | None, config_file: str | Path | None = None, overrides: Sequence[str] = ()
) -> Entry:
    """The entry that a command line names: a zoo name, a YAML with overrides, or another file.

    Raises:
        InputError: neither or both are given, overrides lack a file, or as `zoo.get` and `read`.
    """
    if (config is None) == (config_file is None):
        raise InputError(
            "no config is given" if config is None else "two configs are given",
            "expected: either --config NAME or --config-file X.yaml",
            "`parity zoo` lists the names",
        )
    if config_file is not None:
        return _described(Path(config_file), overrides)
    if overrides:
        raise InputError(
            f"overrides are given with --config {config}",
            "KEY VALUE overrides belong to --config-file X.yaml",
        )
    return get(config)


def entry_of(config: str) -> Entry:
    """The zoo's entry of that name, or what the file of that absolute path describes.

    Raises InputError as `zoo.get` and `read` do.
    """
    return _described(Path(config), ()) if is_file(config) else get(config)


def _described(path: Path, overrides: Sequence[str]) -> Entry:
    """What a file describes: a YAML, own classes in JSON, or a Hugging Face folder."""
    if path.suffix != ".json" and not path.is_dir():
        return read(path, overrides)
    if overrides:
        raise InputError(
            f"overrides are given with {path}", "KEY VALUE overrides belong to the original's YAML"
        )
    return own_config.read(
        path,
        lambda base, settings: _described(Path(base), settings) if settings else entry_of(base),
    )


def scaled_sizes(expression: str) -> tuple[int, ...]:
    """The sizes of ``[int(x * A * B) for x in range(C, D)]``, computed without evaluating it.

    Raises:
        InputError: `expression` is anything else.
    """
    found = _SCALED_SIZES.fullmatch(re.sub(r"\s+", "", expression))
    if not found:
        raise InputError(
            f"the Python expression {expression!r} is not executed",
            "understood is only a list of scaled sizes",
            "write the list itself, or the form [int(x * 0.1 * 512) for x in range(5, 21)]",
        )
    steps = range(*(int(number) for number in found["range"].split(",")))
    if len(steps) > _MOST_SIZES:
        raise InputError(
            f"the expression {expression!r} lists {len(steps)} sizes",
            f"at most {_MOST_SIZES} are accepted",
        )
    sizes = []
    for step in steps:
        value: float = step
        for factor in found["factors"].strip("*").split("*"):
            value *= float(factor)
        sizes.append(int(value))
    return tuple(sizes)


class _Loader(yaml.SafeLoader):
    """Plain YAML, and the tag of an expression, which is parsed by `scaled_sizes`."""


def _expression(loader: _Loader, node: yaml.Node) -> list[int]:
    arguments = loader.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []
    if len(arguments) != 1 or not isinstance(arguments[0], str):
        raise InputError("a Python expression in YAML must be one string in a list")
    return list(scaled_sizes(arguments[0]))


_Loader.add_constructor("tag:yaml.org,2002:python/object/apply:eval", _expression)


def _read_chain(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The file's values over those of its bases, flat: dotted key to value."""
    resolved = path.resolve()
    if resolved in seen:
        chain = " -> ".join(file.name for file in (*seen, resolved))
        raise InputError("the _BASE_ files refer to each other in a circle", chain)
    document = _load(path)
    base = document.pop("_BASE_", None)
    values = _read_chain(path.parent / str(base), (*seen, resolved)) if base else {}
    values.update(_flat(document))
    return values


def _load(path: Path) -> dict[str, Any]:
    text = read_text(path, bounds.YAML_BYTES, "config file")
    try:
        document = yaml.load(text, Loader=_Loader)
        _check_tree(document)
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise InputError(f"config file {path} cannot be used", *error.args) from None
        reason = str(error).replace("\n", " ") or "it is nested too deeply"
        raise InputError(f"config file {path} cannot be understood", reason) from None
    if not isinstance(document, dict):
        raise InputError(
            f"config file {path} is not a config",
            f"it holds {'nothing' if document is None else type(document).__name__}",
            "expected: sections such as MODEL, SOLVER and INPUT",
        )
    return document


def _check_tree(document: Any) -> None:
    """Raises InputError where aliases make a document larger than any config is."""
    left = [(document, 0)]
    for _ in range(_MOST_VALUES):
        if not left:
            return
        value, depth = left.pop()
        if depth > bounds.DEEPEST:
            raise InputError("it is nested too deeply, or within itself")
        if isinstance(value, dict | list):
            parts = value.values() if isinstance(value, dict) else value
            left.extend((part, depth + 1) for part in itertools.islice(parts, _MOST_VALUES))
    raise InputError(f"it has more than {_MOST_VALUES} values")


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    values = {}
    for key, value in section.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            values.update(_flat(value, f"{name}."))
        else:
            values[name] = _decoded(value)
    return values


def _decoded(value: Any) -> Any:
    """Strings that are Python literals become them, as in yacs: "(480, 512)", "1e-6", "None"."""
    if isinstance(value, str) and len(value) <= bounds.NAME_BYTES:
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return value
    return tuple(value) if isinstance(value, list) else value


def _read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    if len(overrides) % 2:
        raise InputError(
            f"the overrides have {len(overrides)} words",
            f"the last key, {overrides[-1]}, has no value",
            "write KEY VALUE KEY VALUE ...",
        )
    return {
        key: _decoded(value) for key, value in zip(overrides[::2], overrides[1::2], strict=True)
    }


def _refuse_unknown(path: Path, values: Mapping[str, Any]) -> None:
    known = {*_DEFAULTS, *_FIXED, *_WITHOUT_EFFECT}
    unknown = sorted(set(values) - known)
    if unknown:
        nearest = {key: difflib.get_close_matches(key, known, n=1) for key in unknown}
        raise InputError(
            f"config {path} has {len(unknown)} unknown key{'s' if len(unknown) > 1 else ''}",
            ", ".join(
                f"{key} (nearest: {near[0]})" if near else key for key, near in nearest.items()
            ),
            "no published MaskFormer reads them; remove them or correct their names",
        )


def _typed(path: Path, key: str, value: Any, default: Any) -> Any:
    """`value` with the type of `default`: whole numbers become floats, one size a tuple of one."""
    kind = type(default)
    if default is None or type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    if kind is tuple and type(value) is int:
        return (value,)
    raise InputError(
        f"config {path}: {key} is {value!r}",
        f"expected: a value such as {default!r}",
    )


def _check_fixed(path: Path, values: Mapping[str, Any]) -> None:
    for key, (default, required) in _FIXED.items():
        value = values.get(key, default)
        if value != required:
            origin = "" if key in values else ", detectron2's default"
            raise InputError(
                f"config {path}: {key} is {value!r}{origin}",
                f"supported is only {required!r}, the value of every published config",
            )


def _entry(path: Path, settings: dict[str, Any]) -> Entry:
    name = path.name.removesuffix(path.suffix)
    return Entry(
        name=name,
        model=_model(path, name, settings),
        solver=_solver(settings),
        inputs=_inputs(settings),
        train_set=_single(path, "DATASETS.TRAIN", settings),
        test_set=_single(path, "DATASETS.TEST", settings),
        eval_period=settings["TEST.EVAL_PERIOD"],
        init_weights=settings["MODEL.WEIGHTS"],
        config_file=path.name,
    )


def _same(known: Entry, entry: Entry) -> bool:
    return known.published is not None and known.settings == entry.settings


def _single(path: Path, key: str, settings: dict[str, Any]) -> str:
    sets = settings[key]
    if len(sets) != 1:
        raise InputError(f"config {path}: {key} names {len(sets)} data sets", "expected: one")
    return sets[0]


def _section(settings: dict[str, Any], prefix: str, **fields: str) -> dict[str, Any]:
    return {field: settings[prefix + key] for field, key in fields.items()}


def _model(path: Path, name: str, settings: dict[str, Any]) -> ModelConfig:
    head = settings["MODEL.SEM_SEG_HEAD.NAME"]
    architecture = settings["MODEL.META_ARCHITECTURE"]
    if _META_ARCHITECTURE.get(head) != architecture:
        raise InputError(
            f"config {path}: MODEL.SEM_SEG_HEAD.NAME is {head!r} in a {architecture!r}",
            "expected: " + ", ".join(f"{h} in a {a}" for h, a in _META_ARCHITECTURE.items()),
        )
    transformer = _section(
        settings,
        "MODEL.MASK_FORMER.",
        hidden_dim="HIDDEN_DIM",
        num_queries="NUM_OBJECT_QUERIES",
        nheads="NHEADS",
        dropout="DROPOUT",
        dim_feedforward="DIM_FEEDFORWARD",
        enc_layers="ENC_LAYERS",
        dec_layers="DEC_LAYERS",
        pre_norm="PRE_NORM",
        deep_supervision="DEEP_SUPERVISION",
        in_feature="TRANSFORMER_IN_FEATURE",
        enforce_input_proj="ENFORCE_INPUT_PROJ",
    )
    loss = _section(
        settings,
        "MODEL.MASK_FORMER.",
        mask_weight="MASK_WEIGHT",
        dice_weight="DICE_WEIGHT",
        no_object_weight="NO_OBJECT_WEIGHT",
    )
    decoder = _section(
        settings,
        "MODEL.SEM_SEG_HEAD.",
        name="PIXEL_DECODER_NAME",
        conv_dim="CONVS_DIM",
        mask_dim="MASK_DIM",
        norm="NORM",
        transformer_enc_layers="TRANSFORMER_ENC_LAYERS",
    )
    if decoder["name"] == "BasePixelDecoder":  # it reads no number of encoder layers
        decoder["transformer_enc_layers"] = 0
    # detectron2's SemanticSegmentor pads to its backbone's size divisibility: none of these has one
    is_per_pixel = architecture == "SemanticSegmentor"
    divisibility = 0 if is_per_pixel else settings["MODEL.MASK_FORMER.SIZE_DIVISIBILITY"]
    return ModelConfig(
        name=name,
        num_classes=settings["MODEL.SEM_SEG_HEAD.NUM_CLASSES"],
        backbone=_backbone(path, settings),
        head=head,
        pixel_decoder=PixelDecoderConfig(**decoder),
        predictor=PredictorConfig(**transformer),
        loss=LossConfig(**loss),
        inference=_inference(path, settings),
        pixel_mean=settings["MODEL.PIXEL_MEAN"],
        pixel_std=settings["MODEL.PIXEL_STD"],
        size_divisibility=divisibility,
        ignore_value=settings["MODEL.SEM_SEG_HEAD.IGNORE_VALUE"],
    )


def _inference(path: Path, settings: dict[str, Any]) -> InferenceConfig:
    values = _section(
        settings,
        "MODEL.MASK_FORMER.TEST.",
        panoptic_on="PANOPTIC_ON",
        object_mask_threshold="OBJECT_MASK_THRESHOLD",
        overlap_threshold="OVERLAP_THRESHOLD",
        sem_seg_postprocess_before_inference="SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE",
    )
    if not values["panoptic_on"]:
        return InferenceConfig(**values)
    train_set = _single(path, "DATASETS.TRAIN", settings)
    if train_set not in _THING_IDS:
        raise InputError(
            f"config {path}: the things of data set {train_set!r} are unknown",
            f"expected for panoptic inference: one of {', '.join(_THING_IDS)}",
        )
    # the original's panoptic inference always resizes first (`mask_former_model.py`, from_config)
    values["sem_seg_postprocess_before_inference"] = True
    return InferenceConfig(**values, thing_ids=_THING_IDS[train_set])


def _backbone(path: Path, settings: dict[str, Any]) -> ResNetConfig | SwinConfig:
    kind = settings["MODEL.BACKBONE.NAME"]
    if kind == "D2SwinTransformer":
        return SwinConfig(
            **_section(
                settings,
                "MODEL.SWIN.",
                pretrain_img_size="PRETRAIN_IMG_SIZE",
                patch_size="PATCH_SIZE",
                embed_dim="EMBED_DIM",
                depths="DEPTHS",
                num_heads="NUM_HEADS",
                window_size="WINDOW_SIZE",
                mlp_ratio="MLP_RATIO",
                qkv_bias="QKV_BIAS",
                qk_scale="QK_SCALE",
                drop_rate="DROP_RATE",
                attn_drop_rate="ATTN_DROP_RATE",
                drop_path_rate="DROP_PATH_RATE",
                patch_norm="PATCH_NORM",
            )
        )
    values = _section(
        settings,
        "MODEL.RESNETS.",
        depth="DEPTH",
        stem_out_channels="STEM_OUT_CHANNELS",
        res2_out_channels="RES2_OUT_CHANNELS",
        stride_in_1x1="STRIDE_IN_1X1",
        res5_dilation="RES5_DILATION",
        norm="NORM",
    )
    if kind == "build_resnet_deeplab_backbone":
        return ResNetConfig(
            **values,
            **_section(
                settings,
                "MODEL.RESNETS.",
                stem="STEM_TYPE",
                res4_dilation="RES4_DILATION",
                res5_multi_grid="RES5_MULTI_GRID",
            ),
        )
    if kind == "build_resnet_backbone":  # it reads neither the stem's type nor the multi-grid
        return ResNetConfig(**values)
    raise InputError(
        f"config {path}: MODEL.BACKBONE.NAME is {kind!r}",
        "expected: build_resnet_backbone, build_resnet_deeplab_backbone or D2SwinTransformer",
    )


def _solver(settings: dict[str, Any]) -> SolverConfig:
    is_poly = settings["SOLVER.LR_SCHEDULER_NAME"] == "WarmupPolyLR"
    is_clipped = settings["SOLVER.CLIP_GRADIENTS.ENABLED"]
    return SolverConfig(
        **_section(
            settings,
            "SOLVER.",
            base_lr="BASE_LR",
            optimizer="OPTIMIZER",
            weight_decay="WEIGHT_DECAY",
            weight_decay_norm="WEIGHT_DECAY_NORM",
            weight_decay_embed="WEIGHT_DECAY_EMBED",
            backbone_multiplier="BACKBONE_MULTIPLIER",
            momentum="MOMENTUM",
            clip_value="CLIP_GRADIENTS.CLIP_VALUE",
            clip_norm_type="CLIP_GRADIENTS.NORM_TYPE",
            schedule="LR_SCHEDULER_NAME",
            max_iter="MAX_ITER",
            gamma="GAMMA",
            power="POLY_LR_POWER",
            warmup_factor="WARMUP_FACTOR",
            warmup_iters="WARMUP_ITERS",
            warmup_method="WARMUP_METHOD",
            ims_per_batch="IMS_PER_BATCH",
        ),
        clip_type=settings["SOLVER.CLIP_GRADIENTS.CLIP_TYPE"] if is_clipped else "none",
        steps=() if is_poly else settings["SOLVER.STEPS"],
    )


def _inputs(settings: dict[str, Any]) -> InputConfig:
    crop = None
    if settings["INPUT.CROP.ENABLED"]:
        crop = CropConfig(
            **_section(
                settings,
                "INPUT.CROP.",
                type="TYPE",
                size="SIZE",
                single_category_max_area="SINGLE_CATEGORY_MAX_AREA",
            )
        )
    return InputConfig(
        crop=crop,
        **_section(
            settings,
            "INPUT.",
            mapper="DATASET_MAPPER_NAME",
            min_sizes_train="MIN_SIZE_TRAIN",
            max_size_train="MAX_SIZE_TRAIN",
            color_aug_ssd="COLOR_AUG_SSD",
            size_divisibility="SIZE_DIVISIBILITY",
            min_size_test="MIN_SIZE_TEST",
            max_size_test="MAX_SIZE_TEST",
        ),
        **_section(
            settings,
            "TEST.AUG.",
            tta_min_sizes="MIN_SIZES",
            tta_max_size="MAX_SIZE",
            tta_flip="FLIP",
        ),
    )
