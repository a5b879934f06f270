"""Configurations that a user has: own classes over an entry, and transformers' folders."""

import dataclasses
import json
from pathlib import Path

import pytest

from maskformer.model import own_config, zoo
from maskformer.model.detectron2_config import entry_of
from maskformer.model.zoo import OwnClass
from parity.errors import InputError
from weight_conversion.hugging_face import library_config

CLASSES = (OwnClass(4, "nut", True), OwnClass(9, "table", False), OwnClass(11, "bolt", True))


def written(path: Path, content: object) -> str:
    path.write_text(json.dumps(content))
    return str(path.resolve())


def test_own_classes_change_number_things_and_names_only(tmp_path: Path) -> None:
    base = zoo.get("coco_r50")
    entry = entry_of(written(tmp_path / "a.json", own_config.own_config("coco_r50", CLASSES)))
    assert (entry.model.num_classes, entry.model.inference.thing_ids) == (3, (0, 2))
    assert entry.classes == CLASSES
    assert entry.published is None
    back = entry.model.replace(
        name=base.model.name,
        num_classes=base.model.num_classes,
        inference={"thing_ids": base.model.inference.thing_ids},
    )
    assert back == base.model
    assert (entry.solver, entry.inputs) == (base.solver, base.inputs)


def test_a_semantic_entry_has_no_things_and_room_for_many_classes() -> None:
    entry = own_config.with_classes(zoo.get("ade20k_r50"), CLASSES)
    assert entry.model.inference.thing_ids == ()
    many = tuple(OwnClass(i, str(i), False) for i in range(300))
    assert own_config.with_classes(zoo.get("ade20k_r50"), many).model.ignore_value == 65_535


@pytest.mark.parametrize("name", ["coco_swin_tiny", "ade20k_swin_small", "ade20k_r101"])
def test_transformers_config_gives_the_model_back(name: str, tmp_path: Path) -> None:
    # the projection is there either way, where the widths differ
    base = zoo.get(name).model.replace(predictor={"enforce_input_proj": False})
    entry = entry_of(written(tmp_path / "config.json", library_config(base)))
    for part in ("backbone", "pixel_decoder", "predictor", "num_classes"):
        assert getattr(entry.model, part) == getattr(base, part)


def test_a_published_model_in_a_library_folder_keeps_its_things(tmp_path: Path) -> None:
    base = zoo.get("coco_swin_tiny")
    entry = entry_of(written(tmp_path / "config.json", library_config(base.model)))
    assert entry.model.inference == base.model.inference
    assert not entry.classes_unknown


def test_own_things_of_a_library_folder_come_from_the_data(tmp_path: Path) -> None:
    content = library_config(zoo.get("coco_swin_tiny").model)
    content["id2label"] = {"0": "a", "1": "b"}
    base = written(tmp_path / "config.json", content)
    alone = entry_of(base)
    assert alone.classes_unknown
    assert not alone.model.inference.panoptic_on
    entry = entry_of(written(tmp_path / "own.json", own_config.own_config(base, CLASSES)))
    assert entry.model.inference.panoptic_on
    assert entry.model.inference.thing_ids == (0, 2)
    assert dataclasses.replace(entry.model.backbone) == alone.model.backbone


WRONG = {
    "another model": ({"model_type": "bert"}, "is not a config"),
    "a list": ([], "is not a config"),
    "no classes": ({"schema": own_config.SCHEMA, "base": "tiny"}, "is incomplete"),
    "two of one id": (own_config.own_config("tiny", CLASSES[:1] * 2), "two classes have one id"),
    "no base of that name": (own_config.own_config("tinny", CLASSES), "no config is called"),
    "a number for a text": (
        {"schema": own_config.SCHEMA, "base": "tiny", "classes": [{"id": 1, "name": 2}]},
        "is no class",
    ),
    "a backbone of timm": (
        {"model_type": "maskformer", "backbone": "resnet18", "use_timm_backbone": True},
        "without describing it",
    ),
    "another depth": (
        {"model_type": "maskformer", "backbone_config": {"model_type": "resnet", "depths": [1]}},
        "has a ResNet of",
    ),
    "a text for a width": (
        {"model_type": "maskformer", "backbone_config": {"model_type": "swin", "embed_dim": "x"}},
        "is not understood",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_configuration_is_refused(name: str, tmp_path: Path) -> None:
    content, message = WRONG[name]
    with pytest.raises(InputError, match=message):
        entry_of(written(tmp_path / "a.json", content))


def test_own_classes_over_themselves_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(InputError, match="based on own classes itself"):
        entry_of(written(path, own_config.own_config(str(path.resolve()), CLASSES)))


def test_settings_change_a_yaml_below_own_classes(tmp_path: Path) -> None:
    from parity_tests.replication.commands.test_options import SMALL

    base = tmp_path / "small.yaml"
    base.write_text(SMALL % 17)
    settings = ("MODEL.MASK_FORMER.DROPOUT", "0.2")
    content = own_config.own_config(str(base), CLASSES, settings)
    entry = entry_of(written(tmp_path / "own.json", content))
    assert (entry.model.predictor.dropout, entry.model.num_classes) == (0.2, 3)
    alone = entry_of(written(tmp_path / "set.json", own_config.own_config(str(base), (), settings)))
    assert (alone.model.predictor.dropout, alone.model.num_classes) == (0.2, 17)
    wrong = own_config.own_config(str(base), CLASSES, ("MODEL.MASK_FORMER.DROPUOT", "0.2"))
    with pytest.raises(InputError, match=r"nearest: MODEL\.MASK_FORMER\.DROPOUT"):
        entry_of(written(tmp_path / "own.json", wrong))
