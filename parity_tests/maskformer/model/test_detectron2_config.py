"""YAML configs of the original's kind are read to the letter, and never executed."""

import os
from pathlib import Path

import pytest

from maskformer.model import zoo
from maskformer.model.detectron2_config import read, resolve, scaled_sizes
from parity.errors import InputError

ORIGINALS = os.environ.get("MASKFORMER_CONFIGS")

BASE = """
VERSION: 2
MODEL:
  META_ARCHITECTURE: MaskFormer
  BACKBONE: {FREEZE_AT: 0, NAME: build_resnet_backbone}
  PIXEL_MEAN: [123.675, 116.280, 103.530]
  PIXEL_STD: [58.395, 57.120, 57.375]
  RESNETS:
    STEM_TYPE: basic
    STRIDE_IN_1X1: False
    OUT_FEATURES: [res2, res3, res4, res5]
  SEM_SEG_HEAD:
    NAME: MaskFormerHead
    IN_FEATURES: [res2, res3, res4, res5]
    NUM_CLASSES: 12
    CONVS_DIM: 64
    MASK_DIM: 64
DATASETS:
  TRAIN: ("a_train",)
  TEST: ("a_val",)
SOLVER:
  LR_SCHEDULER_NAME: WarmupPolyLR
  MAX_ITER: 300
  WARMUP_FACTOR: 1e-6
  WARMUP_ITERS: 0
  CLIP_GRADIENTS: {ENABLED: True, CLIP_TYPE: full_model, CLIP_VALUE: 0.01}
INPUT:
  FORMAT: RGB
  MIN_SIZE_TRAIN: !!python/object/apply:eval ["[int(x * 0.1 * 512) for x in range(5, 21)]"]
  CROP:
    ENABLED: True
    TYPE: absolute
    SIZE: (480, 512)
"""
SWIN = """
_BASE_: ../base.yaml
MODEL:
  BACKBONE: {NAME: D2SwinTransformer}
  SWIN: {EMBED_DIM: 48, DEPTHS: [1, 1, 2, 1], NUM_HEADS: [1, 2, 3, 4], WINDOW_SIZE: 5}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path


def written(tmp_path: Path, text: str, name: str = "own.yaml") -> Path:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_read_maps_every_section(base: Path) -> None:
    entry = read(base)
    assert entry.name == entry.model.name == "base"
    assert entry.published is None
    assert entry.model.num_classes == 12
    assert entry.model.pixel_decoder.conv_dim == 64
    assert entry.model.backbone == zoo.model_config("ade20k_r50").backbone
    assert (entry.train_set, entry.test_set) == ("a_train", "a_val")
    assert entry.solver.max_iter == 300
    assert entry.solver.warmup_factor == 1e-6
    assert entry.inputs.crop.size == (480, 512)
    assert entry.inputs.min_sizes_train == zoo.get("ade20k_r50").inputs.min_sizes_train


def test_read_follows_a_base_in_another_folder(base: Path, tmp_path: Path) -> None:
    entry = read(written(tmp_path, SWIN, "swin/small.yaml"))
    assert entry.model.backbone.embed_dim == 48
    assert entry.model.backbone.num_heads == (1, 2, 3, 4)
    assert entry.model.num_classes == 12


def test_read_applies_overrides_last(base: Path) -> None:
    overrides = ["MODEL.MASK_FORMER.DROPOUT", "0", "INPUT.CROP.SIZE", "(64, 96)", "SEED", "3"]
    entry = read(base, overrides)
    assert entry.model.predictor.dropout == 0.0
    assert entry.inputs.crop.size == (64, 96)


def test_read_builds_the_deeplab_backbone_only_where_it_is_named(base: Path) -> None:
    settings = ["MODEL.RESNETS.STEM_TYPE", "deeplab", "MODEL.RESNETS.RES5_MULTI_GRID", "[1, 2, 4]"]
    assert read(base, settings).model.backbone.stem == "basic"
    deeplab = read(base, [*settings, "MODEL.BACKBONE.NAME", "build_resnet_deeplab_backbone"])
    assert deeplab.model.backbone.stem == "deeplab"
    assert deeplab.model.backbone.res5_multi_grid == (1, 2, 4)


def test_read_pads_per_pixel_models_to_the_batch_only(base: Path) -> None:
    per_pixel = ["MODEL.META_ARCHITECTURE", "SemanticSegmentor"]
    per_pixel += ["MODEL.SEM_SEG_HEAD.NAME", "PerPixelBaselineHead"]
    assert read(base).model.size_divisibility == 32
    assert read(base, per_pixel).model.size_divisibility == 0


def test_read_takes_the_things_from_the_data_set(base: Path) -> None:
    panoptic = ["MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "True"]
    coco = [*panoptic, "DATASETS.TRAIN", "('coco_2017_train_panoptic',)"]
    entry = read(base, [*coco, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "133"])
    assert entry.model.inference == zoo.model_config("coco_r50").inference.__class__(
        panoptic_on=True,
        sem_seg_postprocess_before_inference=True,
        thing_ids=tuple(range(80)),
    )
    with pytest.raises(InputError, match="things of data set 'a_train' are unknown"):
        read(base, panoptic)


@pytest.mark.parametrize(
    ("expression", "sizes"),
    [
        ("[int(x * 0.1 * 640) for x in range(5, 8)]", (320, 384, 448)),
        ("[int(y*32)for y in range(3)]", (0, 32, 64)),
        ("[int(x * 2 * 3 * 4) for x in range(1, 9, 4)]", (24, 120)),
    ],
)
def test_scaled_sizes_are_computed(expression: str, sizes: tuple[int, ...]) -> None:
    assert scaled_sizes(expression) == sizes


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('touch owned')",
        "[int(x * 0.1 * 640) for y in range(5, 8)]",
        "[int(x * 0.1 * 640) for x in range(5, 8)] + [1]",
        "[int(x ** 9) for x in range(5, 8)]",
        "[int(x * 1) for x in range(99999999)]",
        "[int(x * 1) for x in open('/etc/passwd')]",
        "",
    ],
)
def test_scaled_sizes_refuses_any_other_expression(expression: str) -> None:
    with pytest.raises(InputError, match="expression"):
        scaled_sizes(expression)


BAD = {
    "unknown key": ("MODEL: {MASK_FORMER: {DROPUOT: 0.1}}", "MODEL.MASK_FORMER.DROPUOT (nearest: "),
    "two unknown keys": ("A: 1\nB: 2", "2 unknown keys"),
    "unknown section": ("MODEL: {ROI_HEADS: {NUM_CLASSES: 80}}", "MODEL.ROI_HEADS.NUM_CLASSES"),
    "other type": ("MODEL: {MASK_FORMER: {DEC_LAYERS: many}}", "DEC_LAYERS is 'many'"),
    "text for a flag": ("INPUT: {COLOR_AUG_SSD: 1}", "COLOR_AUG_SSD is 1"),
    "blue first": ("INPUT: {FORMAT: BGR}", "INPUT.FORMAT is 'BGR'"),
    "frozen stages": ("MODEL: {BACKBONE: {FREEZE_AT: 2}}", "FREEZE_AT is 2"),
    "half precision": ("SOLVER: {AMP: {ENABLED: True}}", "SOLVER.AMP.ENABLED is True"),
    "other head": ("MODEL: {SEM_SEG_HEAD: {NAME: SemSegFPNHead}}", "'SemSegFPNHead'"),
    "other backbone": ("MODEL: {BACKBONE: {NAME: build_vit}}", "'build_vit'"),
    "two data sets": ("DATASETS: {TRAIN: [a, b]}", "names 2 data sets"),
    "impossible depth": ("MODEL: {RESNETS: {DEPTH: 77}}", "backbone.depth is 77"),
    "code": ("A: !!python/object/apply:eval ['__import__(\"os\").getcwd()']", "is not executed"),
    "an object": ("A: !!python/object/apply:os.system ['true']", "cannot be understood"),
    "broken text": ("MODEL: [", "cannot be understood"),
    "a list": ("- 1", "is not a config"),
    "missing base": ("_BASE_: none.yaml", "does not exist"),
    "circle": ("_BASE_: bad.yaml", "in a circle: bad.yaml -> bad.yaml"),
}


@pytest.mark.parametrize("case", BAD)
def test_read_refuses_what_it_cannot_express(case: str, base: Path, tmp_path: Path) -> None:
    text, message = BAD[case]
    start = "" if "_BASE_" in text or text == "- 1" else "_BASE_: base.yaml\n"
    path = written(tmp_path, start + text, "bad.yaml")
    with pytest.raises(InputError) as caught:
        read(path)
    assert message in ": ".join(str(caught.value).split("\n  "))


def test_read_refuses_an_override_without_a_value(base: Path) -> None:
    with pytest.raises(InputError, match="the overrides have 1 words"):
        read(base, ["SEED"])


def test_read_refuses_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match="is not text"):
        read(path)


def test_resolve_wants_one_config(base: Path) -> None:
    assert resolve("tiny") is zoo.get("tiny")
    assert resolve(None, base).name == "base"
    for arguments in ((None,), ("tiny", base), ("tiny", None, ["SEED", "1"])):
        with pytest.raises(InputError):
            resolve(*arguments)


@pytest.mark.skipif(ORIGINALS is None, reason="MASKFORMER_CONFIGS names no configs folder")
@pytest.mark.parametrize("name", [name for name in zoo.names() if name != "tiny"])
def test_read_of_the_originals_equals_the_zoo(name: str) -> None:
    entry = zoo.get(name)
    assert read(Path(ORIGINALS) / entry.config_file) is entry
