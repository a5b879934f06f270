"""Configurations that a user has: an entry with classes of their own, a Hugging Face `config.json`.

A file of own classes is what `parity train --classes` writes beside its run, and what every verb
takes as `--config-file`: the configuration it is made of, and the classes with their names.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from maskformer import coco
from maskformer.model.config import (
    InferenceConfig,
    LossConfig,
    ModelConfig,
    PixelDecoderConfig,
    PredictorConfig,
    ResNetConfig,
    SwinConfig,
)
from maskformer.model.zoo import Entry, OwnClass, get, is_file
from parity.errors import InputError
from parity.reading.content import read_json

SCHEMA = "own-config/1"
MOST_CLASSES = 65_000
"""Class ids are stored in 16 bits, with values to spare for what is no class."""

_WIDE_IGNORED = 65_535
_SWIN_DEFAULTS = {
    "image_size": 224,
    "patch_size": 4,
    "embed_dim": 96,
    "depths": (2, 2, 6, 2),
    "num_heads": (3, 6, 12, 24),
    "window_size": 7,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "drop_path_rate": 0.1,
}
_SWIN = ("swin", "maskformer-swin")
_LIKE = "coco_swin_tiny"
"""Whose solver and inputs a model has of which only the architecture is known."""


def with_classes(entry: Entry, classes: Sequence[OwnClass]) -> Entry:
    """`entry` for the classes of another data set: their number, names, and which are things.

    Raises InputError for no class, for too many, and for an id that two classes have.
    """
    if not 1 <= len(classes) <= MOST_CLASSES:
        raise InputError(f"there are {len(classes)} classes", f"expected: 1 to {MOST_CLASSES}")
    ids = [one.id for one in classes]
    if len(set(ids)) < len(ids):
        raise InputError("two classes have one id", f"ids: {ids[:20]}")
    things = tuple(c for c, one in enumerate(classes) if one.is_thing)
    inference = entry.model.inference
    if entry.classes_unknown:
        inference = dataclasses.replace(inference, panoptic_on=bool(things))
    inference = dataclasses.replace(inference, thing_ids=things if inference.panoptic_on else ())
    name = f"{entry.name}_{len(classes)}_classes"
    ignored = entry.model.ignore_value
    model = dataclasses.replace(
        entry.model,
        name=name,
        num_classes=len(classes),
        inference=inference,
        ignore_value=ignored if ignored >= len(classes) else _WIDE_IGNORED,
    )
    return dataclasses.replace(
        entry,
        name=name,
        model=model,
        train_set="own",
        test_set="own",
        config_file="",
        published=None,
        classes=tuple(classes),
        classes_unknown=False,
    )


def own_config(
    base: str, classes: Sequence[OwnClass], settings: Sequence[str] = ()
) -> dict[str, Any]:
    """The content of a file that `read` gives back.

    `base` is what `entry_of` takes, `settings` keys and values in turn, where it is a YAML file.
    """
    return {
        "schema": SCHEMA,
        "base": base,
        "settings": list(settings),
        "classes": [dataclasses.asdict(one) for one in classes],
    }


def read(path: Path, entry_of: Callable[[str, Sequence[str]], Entry]) -> Entry:
    """The entry that a JSON file describes: own classes, or transformers' MaskFormer.

    `entry_of` gives the entry that own classes are based on, with its settings.

    Raises InputError for anything else.
    """
    path = path / "config.json" if path.is_dir() else path
    content = read_json(path, what="config file")
    if isinstance(content, Mapping) and content.get("schema") == SCHEMA:
        return _own(path, content, entry_of)
    if isinstance(content, Mapping) and content.get("model_type") == "maskformer":
        try:
            return _library(path, content)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"config file {path} is not understood", f"{type(error).__name__}: {error}"
            ) from None
    raise InputError(
        f"config file {path} is not a config",
        f"expected: own classes (schema {SCHEMA!r}), or transformers' MaskFormer",
        "give the original's YAML, or what `parity train --classes` wrote",
    )


def _own(
    path: Path, content: Mapping[str, Any], entry_of: Callable[[str, Sequence[str]], Entry]
) -> Entry:
    base, items = content.get("base"), content.get("classes")
    settings = content.get("settings", [])
    is_words = isinstance(settings, list) and all(isinstance(one, str) for one in settings)
    if not isinstance(base, str) or not isinstance(items, list) or not is_words:
        raise InputError(f"config file {path} is incomplete", "expected: base and classes")
    classes = []
    for i, item in enumerate(items):
        kinds = {"id": int, "name": str, "is_thing": bool}
        if not isinstance(item, dict) or any(
            type(item.get(key)) is not kind for key, kind in kinds.items()
        ):
            raise InputError(
                f"config file {path}: classes[{i}] is no class",
                "expected: id (a number), name (a text), is_thing (true or false)",
            )
        classes.append(OwnClass(**{key: item[key] for key in kinds}))
    if is_file(base) and Path(base).suffix == ".json":
        below = read_json(base, what="config file")
        if isinstance(below, dict) and below.get("schema") == SCHEMA:
            raise InputError(
                f"config file {path} is based on own classes itself",
                base,
                "name the config of before as its base",
            )
    entry = entry_of(base, settings)
    return with_classes(entry, classes) if classes or not settings else entry


def _library(path: Path, content: Mapping[str, Any]) -> Entry:
    """A model of transformers by its `config.json`, whose defaults are that library's."""
    decoder = content.get("decoder_config") or {}
    backbone = content.get("backbone_config")
    if backbone is None or content.get("use_timm_backbone") or content.get("backbone"):
        raise InputError(
            f"config file {path} names its backbone without describing it",
            "expected: backbone_config of type swin or resnet",
        )
    kind = backbone.get("model_type")
    if kind not in (*_SWIN, "resnet"):
        raise InputError(f"config file {path} has a backbone of type {str(kind)[:100]!r}")
    labels = content.get("id2label") or {str(i): f"LABEL_{i}" for i in range(2)}
    names = [labels[str(i)] for i in range(len(labels))]
    base = get(_LIKE)
    heads = decoder.get("decoder_attention_heads", 8)
    model = ModelConfig(
        name=path.resolve().parent.name,
        num_classes=len(names),
        backbone=_swin(backbone) if kind in _SWIN else _resnet(path, backbone),
        pixel_decoder=PixelDecoderConfig(
            conv_dim=content.get("fpn_feature_size", 256),
            mask_dim=content.get("mask_feature_size", 256),
        ),
        predictor=PredictorConfig(
            hidden_dim=decoder.get("d_model", 256),
            num_queries=decoder.get("num_queries", 100),
            nheads=heads,
            dropout=decoder.get("dropout", 0.1),
            dim_feedforward=decoder.get("decoder_ffn_dim", 2048),
            dec_layers=decoder.get("decoder_layers", 6),
        ),
        loss=LossConfig(
            class_weight=content.get("cross_entropy_weight", 1.0),
            mask_weight=content.get("mask_weight", 20.0),
            dice_weight=content.get("dice_weight", 1.0),
            no_object_weight=content.get("no_object_weight", 0.1),
        ),
        inference=InferenceConfig(object_mask_threshold=0.8, overlap_threshold=0.8),
    )
    if names == [category.name for category in coco.PANOPTIC_CATEGORIES]:
        inference = dataclasses.replace(base.model.inference)
        return dataclasses.replace(
            base, model=dataclasses.replace(model, inference=inference), **_unnamed(model)
        )
    classes = tuple(OwnClass(c, str(name)[:200], False) for c, name in enumerate(names))
    return dataclasses.replace(
        base, model=model, **_unnamed(model), classes=classes, classes_unknown=True
    )


def _unnamed(model: ModelConfig) -> dict[str, Any]:
    return {"name": model.name, "published": None, "config_file": "", "init_weights": ""}


def _swin(given: Mapping[str, Any]) -> SwinConfig:
    values = {key: given.get(key, default) for key, default in _SWIN_DEFAULTS.items()}
    return SwinConfig(
        pretrain_img_size=values["image_size"],
        patch_size=values["patch_size"],
        embed_dim=values["embed_dim"],
        depths=tuple(values["depths"]),
        num_heads=tuple(values["num_heads"]),
        window_size=values["window_size"],
        mlp_ratio=values["mlp_ratio"],
        qkv_bias=values["qkv_bias"],
        drop_rate=values["hidden_dropout_prob"],
        attn_drop_rate=values["attention_probs_dropout_prob"],
        drop_path_rate=values["drop_path_rate"],
    )


def _resnet(path: Path, given: Mapping[str, Any]) -> ResNetConfig:
    depths = tuple(given.get("depths", (3, 4, 6, 3)))
    known = {ResNetConfig(depth=depth).blocks: depth for depth in (50, 101)}
    usual = given.get("layer_type", "bottleneck") == "bottleneck"
    if depths not in known or not usual:
        raise InputError(
            f"config file {path} has a ResNet of {depths} blocks",
            f"known: {', '.join(map(str, known))}, each of bottlenecks",
        )
    return ResNetConfig(depth=known[depths])
