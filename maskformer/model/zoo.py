"""Every published MaskFormer by name, as data: model, solver, inputs, result, checkpoint.

The 30 entries are the 30 training configs of facebookresearch/MaskFormer (`configs/`); results,
memory and checkpoint names are those of its `MODEL_ZOO.md`. `tiny` is this project's own small
relative of `coco_r50`, for quick runs; `scenes_tiny` and `scenes_r50` are trained from scratch on
procedural scenes (`maskformer.scenes.scenes`).
"""

import dataclasses
import difflib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from maskformer import ade20k, coco
from maskformer.model.config import (
    InferenceConfig,
    ModelConfig,
    PixelDecoderConfig,
    PredictorConfig,
    ResNetConfig,
    SwinConfig,
)
from maskformer.model.inputs import CropConfig, InputConfig
from maskformer.model.solver import SolverConfig
from parity.errors import InputError

SOURCE = "facebookresearch/MaskFormer, MODEL_ZOO.md"
CHECKPOINT_ROOT = "https://dl.fbaipublicfiles.com/maskformer"


@dataclass(frozen=True)
class Published:
    """A published result and the checkpoint it belongs to (`SOURCE`).

    `value` is PQ or mIoU in percent, single scale; `multi_scale` the same with multi-scale and
    flipped testing, where published. `memory_mb` is the training memory of one V100 GPU.
    `checkpoint` is a path below `CHECKPOINT_ROOT`; its file name ends with an md5 prefix.
    """

    metric: str
    value: float
    multi_scale: float | None
    memory_mb: int
    model_id: str
    checkpoint: str
    note: str = ""

    @property
    def file_name(self) -> str:
        """The checkpoint's file name."""
        return self.checkpoint.rsplit("/", 1)[-1]

    @property
    def md5_prefix(self) -> str:
        """The first hexadecimal digits of the checkpoint's md5, as its name states them."""
        return md5_prefix(self.file_name) or ""

    @property
    def url(self) -> str:
        """Where the checkpoint was published."""
        return f"{CHECKPOINT_ROOT}/{self.checkpoint}"


@dataclass(frozen=True)
class OwnClass:
    """A class of a user's data set: the data set's id and name, and whether it is a thing."""

    id: int
    name: str
    is_thing: bool


@dataclass(frozen=True)
class Entry:
    """One entry of the zoo. `init_weights` names the ImageNet weights that training starts from.

    `eval_period` is in iterations, 0 for the end of training only. `config_file` is the YAML file
    in the original's repository; it and `published` are empty for this project's own entries.
    `classes` has the classes where they are a user's own; `classes_unknown` says that which of them
    are things is not known.
    """

    name: str
    model: ModelConfig
    solver: SolverConfig
    inputs: InputConfig
    train_set: str
    test_set: str
    eval_period: int
    init_weights: str
    config_file: str = ""
    published: Published | None = None
    classes: tuple[OwnClass, ...] = ()
    classes_unknown: bool = False

    @cached_property
    def settings(self) -> tuple:
        """What training and testing depend on: equal for two entries that differ in name only."""
        return (
            dataclasses.replace(self.model, name=""),
            *(self.solver, self.inputs, self.train_set, self.test_set),
            *(self.eval_period, self.init_weights),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        values["model"] = self.model.to_dict()
        values["solver"] = dataclasses.asdict(self.solver)
        values["inputs"] = dataclasses.asdict(self.inputs)
        for name in ("classes", "classes_unknown"):
            if not values[name]:
                del values[name]  # as the zoo's entries were always recorded
        if self.classes:
            values["classes"] = [dataclasses.asdict(one) for one in self.classes]
        if self.published:
            values["published"] = {
                **dataclasses.asdict(self.published),
                "md5_prefix": self.published.md5_prefix,
                "url": self.published.url,
                "source": SOURCE,
            }
        return values


def md5_prefix(file_name: str) -> str | None:
    """The md5 prefix that a published checkpoint's file name ends with, or None without one."""
    found = re.search(r"_([0-9a-f]{6})\.\w+$", file_name)
    return found.group(1) if found else None


_R50 = ResNetConfig()
_R101 = ResNetConfig(depth=101)
_R101C = ResNetConfig(depth=101, stem="deeplab", stem_out_channels=128, res5_multi_grid=(1, 2, 4))
_SWIN_T = SwinConfig()
_SWIN_S = SwinConfig(depths=(2, 2, 18, 2))
_SWIN_B = SwinConfig(
    pretrain_img_size=384,
    embed_dim=128,
    depths=(2, 2, 18, 2),
    num_heads=(4, 8, 16, 32),
    window_size=12,
)
_SWIN_L = dataclasses.replace(_SWIN_B, embed_dim=192, num_heads=(6, 12, 24, 48))

_INIT_WEIGHTS = {
    _R50: "detectron2://ImageNetPretrained/torchvision/R-50.pkl",
    _R101: "R-101.pkl",
    _R101C: "detectron2://DeepLab/R-103.pkl",
    _SWIN_T: "swin_tiny_patch4_window7_224.pkl",
    _SWIN_S: "swin_small_patch4_window7_224.pkl",
    _SWIN_B: "swin_base_patch4_window12_384_22k.pkl",
    _SWIN_L: "swin_large_patch4_window12_384_22k.pkl",
}

_SWIN_SOLVER = {
    "base_lr": 6e-5,
    "weight_decay": 0.01,
    "backbone_multiplier": 1.0,
    "warmup_factor": 1e-6,
    "warmup_iters": 1500,
}

_BASE_DECODER = PixelDecoderConfig()
_ENCODER_DECODER = PixelDecoderConfig(
    name="TransformerEncoderPixelDecoder", transformer_enc_layers=6
)
_ON_ENCODER = PredictorConfig(in_feature="transformer_encoder")


def _poly(max_iter: int, images: int = 16) -> SolverConfig:
    """The semantic models' schedule."""
    return SolverConfig(
        schedule="WarmupPolyLR", max_iter=max_iter, steps=(), warmup_iters=0, ims_per_batch=images
    )


def _scales(base: int, last: int = 20) -> tuple[int, ...]:
    """Short sides at 0.5, 0.6, ... times `base`, cut to whole pixels."""
    return tuple(int(tenths * 0.1 * base) for tenths in range(5, last + 1))


def _scale_jitter(size: int, **changes: Any) -> InputConfig:
    """The semantic models' inputs around one short side: half to double size, then a crop of it."""
    values = {
        "min_sizes_train": _scales(size),
        "max_size_train": 4 * size,
        "crop": CropConfig(size=(size, size)),
        "color_aug_ssd": True,
        "size_divisibility": size,
        "min_size_test": size,
        "max_size_test": 4 * size,
    }
    return InputConfig(**{**values, **changes})


def _tta(size: int) -> dict[str, Any]:
    """Multi-scale testing at 0.5 to 1.75 times `size`."""
    return {
        "tta_min_sizes": tuple(size * quarters // 4 for quarters in range(2, 8)),
        "tta_max_size": 7 * size,
    }


@dataclass(frozen=True)
class _DataSet:
    """What all models of one data set share."""

    prefix: str
    config_folder: str
    checkpoint_folder: str
    train_set: str
    test_set: str
    model: ModelConfig
    solver: SolverConfig
    inputs: InputConfig
    metric: str = "mIoU"
    eval_period: int = 5000

    def entry(
        self,
        short_name: str,
        config: str,
        backbone: ResNetConfig | SwinConfig,
        model_id: str,
        md5: str,
        memory_mb: int,
        value: float,
        multi_scale: float | None = None,
        *,
        model: dict[str, Any] | None = None,
        inputs: InputConfig | None = None,
        note: str = "",
    ) -> Entry:
        """The model `config` of this data set; `model` and `inputs` are what it changes."""
        is_swin = isinstance(backbone, SwinConfig)
        name = f"{self.prefix}_{short_name}"
        return Entry(
            name=name,
            model=self.model.replace(name=name, backbone=backbone, **(model or {})),
            solver=dataclasses.replace(self.solver, **_SWIN_SOLVER) if is_swin else self.solver,
            inputs=inputs or self.inputs,
            train_set=self.train_set,
            test_set=self.test_set,
            eval_period=self.eval_period,
            init_weights=_INIT_WEIGHTS[backbone],
            config_file=f"{self.config_folder}/{'swin/' if is_swin else ''}{config}.yaml",
            published=Published(
                metric=self.metric,
                value=value,
                multi_scale=multi_scale,
                memory_mb=memory_mb,
                model_id=model_id,
                checkpoint=f"{self.checkpoint_folder}/{config}/model_final_{md5}.pkl",
                note=note,
            ),
        )


_ADE20K = _DataSet(
    prefix="ade20k",
    config_folder="ade20k-150",
    checkpoint_folder="semantic-ade20k",
    train_set="ade20k_sem_seg_train",
    test_set="ade20k_sem_seg_val",
    model=ModelConfig(name="", num_classes=150),
    solver=_poly(160_000),
    inputs=_scale_jitter(512, **_tta(512)),
)
_ADE20K_640 = _scale_jitter(640, **_tta(640))
_ADE20K_PANOPTIC = _DataSet(
    prefix="ade20k_panoptic",
    config_folder="ade20k-150-panoptic",
    checkpoint_folder="panoptic-ade20k",
    train_set="ade20k_panoptic_train",
    test_set="ade20k_panoptic_val",
    model=ModelConfig(
        name="",
        num_classes=150,
        pixel_decoder=_ENCODER_DECODER,
        predictor=_ON_ENCODER,
        inference=InferenceConfig(
            panoptic_on=True,
            object_mask_threshold=0.7,
            overlap_threshold=0.8,
            sem_seg_postprocess_before_inference=True,
            thing_ids=ade20k.THING_IDS,
        ),
    ),
    solver=_poly(720_000),
    inputs=_scale_jitter(640, mapper="mask_former_panoptic", **_tta(512)),
    metric="PQ",
    eval_period=0,
)
_ADE20K_FULL = _DataSet(
    prefix="ade20k_full",
    config_folder="ade20k-full-847",
    checkpoint_folder="semantic-ade20k-full",
    train_set="ade20k_full_sem_seg_train",
    test_set="ade20k_full_sem_seg_val",
    model=ModelConfig(name="", num_classes=847, ignore_value=65535),
    solver=_poly(200_000),
    inputs=_scale_jitter(512),
)
_CITYSCAPES = _DataSet(
    prefix="cityscapes",
    config_folder="cityscapes-19",
    checkpoint_folder="semantic-cityscapes",
    train_set="cityscapes_fine_sem_seg_train",
    test_set="cityscapes_fine_sem_seg_val",
    model=ModelConfig(name="", num_classes=19),
    solver=_poly(90_000),
    inputs=_scale_jitter(
        1024,
        crop=CropConfig(size=(512, 1024)),
        size_divisibility=-1,
        max_size_test=2048,
        tta_min_sizes=(512, 768, 1024, 1280, 1536, 1792),
        tta_max_size=4096,
    ),
)
_COCO = _DataSet(
    prefix="coco",
    config_folder="coco-panoptic",
    checkpoint_folder="panoptic-coco",
    train_set="coco_2017_train_panoptic",
    test_set="coco_2017_val_panoptic",
    model=ModelConfig(
        name="",
        num_classes=len(coco.PANOPTIC_CATEGORIES),
        pixel_decoder=_ENCODER_DECODER,
        predictor=_ON_ENCODER,
        inference=InferenceConfig(
            panoptic_on=True,
            object_mask_threshold=0.8,
            overlap_threshold=0.8,
            sem_seg_postprocess_before_inference=True,
            thing_ids=coco.THING_IDS,
        ),
        size_divisibility=0,
    ),
    solver=SolverConfig(),
    inputs=InputConfig(
        mapper="detr_panoptic",
        min_sizes_train=tuple(range(480, 801, 32)),
        crop=CropConfig(type="absolute_range", size=(384, 600)),
    ),
    metric="PQ",
    eval_period=0,
)
_COCO_SWIN = {
    "pixel_decoder": _BASE_DECODER,
    "predictor": PredictorConfig(enforce_input_proj=True),
}
_COCO_STUFF = _DataSet(
    prefix="cocostuff",
    config_folder="coco-stuff-10k-171",
    checkpoint_folder="semantic-coco-stuff-10k",
    train_set="coco_2017_train_stuff_10k_sem_seg",
    test_set="coco_2017_test_stuff_10k_sem_seg",
    model=ModelConfig(name="", num_classes=171),
    solver=_poly(60_000, images=32),
    inputs=_scale_jitter(640, min_sizes_train=_scales(640, last=15), **_tta(640)),
)
_MAPILLARY = _DataSet(
    prefix="mapillary",
    config_folder="mapillary-vistas-65",
    checkpoint_folder="semantic-mapillary-vistas",
    train_set="mapillary_vistas_sem_seg_train",
    test_set="mapillary_vistas_sem_seg_val",
    model=ModelConfig(name="", num_classes=65, ignore_value=65),
    solver=_poly(300_000),
    inputs=_scale_jitter(
        2048, crop=CropConfig(size=(1280, 1280)), size_divisibility=1280, max_size_test=2048
    ),
)

# The baselines pad as detectron2's SemanticSegmentor does: to the largest image of the batch.
_PER_PIXEL = {"head": "PerPixelBaselineHead", "size_divisibility": 0}


def _per_pixel_plus(data_set: _DataSet) -> dict[str, Any]:
    """The baseline with a transformer has one query per class."""
    return {
        "head": "PerPixelBaselinePlusHead",
        "size_divisibility": 0,
        "predictor": {"num_queries": data_set.model.num_classes},
    }


_ADE20K_MODELS = (
    _ADE20K.entry(
        "pp",
        "per_pixel_baseline_R50_bs16_160k",
        _R50,
        "40913338_1",
        "1043f3",
        2451,
        39.2,
        40.9,
        model=_PER_PIXEL,
    ),
    _ADE20K.entry(
        "ppplus",
        "per_pixel_baseline_plus_R50_bs16_160k",
        _R50,
        "40931736_2",
        "833630",
        5817,
        41.9,
        42.9,
        model=_per_pixel_plus(_ADE20K),
    ),
    _ADE20K.entry(
        "r50", "maskformer_R50_bs16_160k", _R50, "40931736_14", "d8dbeb", 4334, 44.5, 46.7
    ),
    _ADE20K.entry(
        "r101", "maskformer_R101_bs16_160k", _R101, "40986936_1", "1aeb94", 4905, 45.5, 47.2
    ),
    _ADE20K.entry(
        "r101c", "maskformer_R101c_bs16_160k", _R101C, "41703904_1", "b432ea", 4968, 46.0, 48.1
    ),
    _ADE20K.entry(
        "swin_tiny",
        "maskformer_swin_tiny_bs16_160k",
        _SWIN_T,
        "40986951_3",
        "8657a5",
        5292,
        46.7,
        48.8,
    ),
    _ADE20K.entry(
        "swin_small",
        "maskformer_swin_small_bs16_160k",
        _SWIN_S,
        "40846700_5",
        "528157",
        6330,
        49.8,
        51.0,
    ),
    _ADE20K.entry(
        "swin_base",
        "maskformer_swin_base_IN21k_384_bs16_160k_res640",
        _SWIN_B,
        "40986951_0",
        "45388b",
        12928,
        52.7,
        53.9,
        inputs=_ADE20K_640,
    ),
    _ADE20K.entry(
        "swin_large",
        "maskformer_swin_large_IN21k_384_bs16_160k_res640",
        _SWIN_L,
        "40846700_0",
        "aefa3b",
        18144,
        54.1,
        55.6,
        inputs=_ADE20K_640,
    ),
)
_ADE20K_PANOPTIC_MODELS = (
    _ADE20K_PANOPTIC.entry(
        "r50", "maskformer_panoptic_R50_bs16_720k", _R50, "42746872_1", "7aa977", 15899, 34.7
    ),
    _ADE20K_PANOPTIC.entry(
        "r101",
        "maskformer_panoptic_R101_bs16_720k",
        _R101,
        "42747444",
        "0b3cc8",
        16516,
        35.7,
        note="the table calls the backbone R50; the config says R101",
    ),
)
_ADE20K_FULL_MODELS = (
    _ADE20K_FULL.entry(
        "pp",
        "per_pixel_baseline_R50_bs16_200k",
        _R50,
        "40986914_5",
        "9f66a9",
        8030,
        12.4,
        model=_PER_PIXEL,
    ),
    _ADE20K_FULL.entry(
        "ppplus",
        "per_pixel_baseline_plus_R50_bs16_200k",
        _R50,
        "40986914_6",
        "4d31f2",
        26698,
        13.9,
        model=_per_pixel_plus(_ADE20K_FULL),
    ),
    _ADE20K_FULL.entry("r50", "maskformer_R50_bs16_200k", _R50, "40986914_1", "f4e3f6", 6529, 16.0),
    _ADE20K_FULL.entry(
        "r101", "maskformer_R101_bs16_200k", _R101, "40986946_1", "88df33", 6894, 16.8
    ),
    _ADE20K_FULL.entry(
        "r101c", "maskformer_R101c_bs16_200k", _R101C, "41703904_6", "75d34e", 6904, 17.4
    ),
)
_CITYSCAPES_MODELS = (
    _CITYSCAPES.entry(
        "r101", "maskformer_R101_bs16_90k", _R101, "41127351_1", "38c00c", 6960, 78.5, 80.3
    ),
    _CITYSCAPES.entry(
        "r101c", "maskformer_R101c_bs16_90k", _R101C, "41630444_2", "4f8ff9", 7204, 79.7, 81.4
    ),
)
_COCO_MODELS = (
    _COCO.entry(
        "r50",
        "maskformer_panoptic_R50_bs64_554k",
        _R50,
        "42747488_1",
        "6f60dc",
        22634,
        46.5,
        note="its metrics.json ends at PQ 40.5, by a post-processing bug of that time "
        "(issue 12 of the original); the table's PQ and the file's losses stand",
    ),
    _COCO.entry(
        "r101", "maskformer_panoptic_R101_bs64_554k", _R101, "42747488_0", "57b049", 27358, 47.6
    ),
    _COCO.entry(
        "swin_tiny",
        "maskformer_panoptic_swin_tiny_bs64_554k",
        _SWIN_T,
        "41143190_0",
        "539394",
        20023,
        47.7,
        model=_COCO_SWIN,
    ),
    _COCO.entry(
        "swin_small",
        "maskformer_panoptic_swin_small_bs64_554k",
        _SWIN_S,
        "41270920",
        "5bf6b1",
        21620,
        49.7,
        model=_COCO_SWIN,
    ),
    _COCO.entry(
        "swin_base",
        "maskformer_panoptic_swin_base_IN21k_384_bs64_554k",
        _SWIN_B,
        "41260906",
        "4b7f49",
        24411,
        51.8,
        model=_COCO_SWIN,
    ),
    _COCO.entry(
        "swin_large",
        "maskformer_panoptic_swin_large_IN21k_384_bs64_554k",
        _SWIN_L,
        "43219274",
        "7505c4",
        23275,
        52.7,
        model=_COCO_SWIN,
        inputs=dataclasses.replace(_COCO.inputs, max_size_train=1000),
        note="trained with a long side of at most 1000 pixels, for lack of memory",
    ),
)
_COCO_STUFF_MODELS = (
    _COCO_STUFF.entry(
        "pp",
        "per_pixel_baseline_R50_bs32_60k",
        _R50,
        "40941321_0",
        "275ab0",
        6898,
        32.4,
        34.4,
        model=_PER_PIXEL,
    ),
    _COCO_STUFF.entry(
        "ppplus",
        "per_pixel_baseline_plus_R50_bs32_60k",
        _R50,
        "40941321_3",
        "1fa920",
        18227,
        34.2,
        35.8,
        model=_per_pixel_plus(_COCO_STUFF),
    ),
    _COCO_STUFF.entry(
        "r50", "maskformer_R50_bs32_60k", _R50, "40941321_6", "cb03eb", 8618, 37.1, 38.9
    ),
    _COCO_STUFF.entry(
        "r101", "maskformer_R101_bs32_60k", _R101, "40986940_1", "eb19bb", 10091, 38.1, 39.8
    ),
    _COCO_STUFF.entry(
        "r101c", "maskformer_R101c_bs32_60k", _R101C, "41703904_3", "bffd25", 9927, 38.0, 39.3
    ),
)
_MAPILLARY_MODELS = (
    _MAPILLARY.entry(
        "r50", "maskformer_R50_bs16_300k", _R50, "42325118", "f3fc73", 15761, 53.1, 55.4
    ),
)


def _tiny(coco_r50: Entry) -> Entry:
    model = coco_r50.model.replace(
        name="tiny",
        num_classes=13,
        pixel_decoder={"conv_dim": 64, "mask_dim": 64, "transformer_enc_layers": 1},
        predictor={
            "hidden_dim": 64,
            "num_queries": 20,
            "nheads": 4,
            "dim_feedforward": 128,
            "dec_layers": 2,
        },
        inference={"thing_ids": (0, 1, 2, 4, 5, 6, 8)},
    )
    return dataclasses.replace(coco_r50, name="tiny", model=model, config_file="", published=None)


_SCENES_INPUTS = InputConfig(
    mapper="detr_panoptic",
    min_sizes_train=(144,),
    max_size_train=192,
    min_size_test=144,
    max_size_test=192,
)
_SCENES_SOLVER = SolverConfig(
    base_lr=1e-3,
    backbone_multiplier=1.0,
    clip_value=1.0,
    schedule="WarmupPolyLR",
    max_iter=2000,
    steps=(),
    warmup_factor=0.01,
    warmup_iters=50,
    ims_per_batch=4,
)


def _scenes(name: str, model: ModelConfig) -> Entry:
    """Training on procedural scenes from scratch, in minutes on two CPU cores.

    Things first, then stuff, as `scenes.CATEGORIES` (a test holds them together). Batch norm cannot
    stay frozen where nothing was learnt before: the backbone has group norm. Training pads to
    192x192, and positions are encoded relative to the padded size, so testing pads alike.
    """
    model = model.replace(
        name=name,
        num_classes=17,
        inference={"thing_ids": tuple(range(8))},
        size_divisibility=96,
    )
    return Entry(
        name=name,
        model=model,
        solver=_SCENES_SOLVER,
        inputs=_SCENES_INPUTS,
        train_set="scenes_train",
        test_set="scenes_val",
        eval_period=0,
        init_weights="",
    )


def _scenes_tiny(tiny: ModelConfig) -> Entry:
    """A ResNet-18 of half width, and no dropout, so that two frameworks draw nothing apart."""
    backbone = ResNetConfig(depth=18, stem_out_channels=32, res2_out_channels=32, norm="GN")
    predictor = {"num_queries": 32, "dropout": 0.0}
    return _scenes("scenes_tiny", tiny.replace(backbone=backbone, predictor=predictor))


def _scenes_r50(coco_r50: ModelConfig) -> Entry:
    """The published model of COCO with group norm in the backbone."""
    return _scenes("scenes_r50", coco_r50.replace(backbone=ResNetConfig(norm="GN")))


ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        *_COCO_MODELS,
        *_ADE20K_MODELS,
        *_ADE20K_PANOPTIC_MODELS,
        *_ADE20K_FULL_MODELS,
        *_CITYSCAPES_MODELS,
        *_COCO_STUFF_MODELS,
        *_MAPILLARY_MODELS,
        _tiny(_COCO_MODELS[0]),
        _scenes_tiny(_tiny(_COCO_MODELS[0]).model),
        _scenes_r50(_COCO_MODELS[0].model),
    )
}


def names() -> tuple[str, ...]:
    """Every name `get` knows, in the zoo's order."""
    return tuple(ENTRIES)


def is_file(config: str) -> bool:
    """Whether `config` is the absolute path of a file, in place of the name of an entry."""
    return Path(config).is_absolute()


def config_words(config: str) -> list[str]:
    """The option of every command, and its value, that says `config`: a name or a file's path."""
    return ["--config-file" if is_file(config) else "--config", config]


def get(name: str) -> Entry:
    """The entry called `name`.

    Raises:
        InputError: no such entry; the message has the nearest names.
    """
    if name not in ENTRIES:
        nearest = difflib.get_close_matches(name, ENTRIES, n=3, cutoff=0.3) or list(ENTRIES)[:3]
        raise InputError(
            f"no config is called {name!r}",
            f"nearest: {', '.join(nearest)}",
            f"`parity zoo` lists all {len(ENTRIES)}",
        )
    return ENTRIES[name]


def model_config(name: str) -> ModelConfig:
    """The model of the entry called `name`; raises as `get` does."""
    return get(name).model
