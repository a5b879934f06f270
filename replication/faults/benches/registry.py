"""The cases that faults are planted in: the reference measured once, the port judged each time."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from maskformer.model import zoo
from maskformer.model.config import ModelConfig, ResNetConfig, SwinConfig
from maskformer.model.detectron2_config import entry_of
from replication.faults.benches.model import Bfloat16Bench, ForwardBench, PrecisionBench
from replication.faults.benches.training import (
    DropoutBench,
    ReplicaBench,
    ScheduleBench,
    StepsBench,
    TaskBench,
    TrainingBench,
)

WEIGHTS = "seeded:5"
SEMANTIC, PER_PIXEL = "ade20k_r50", "ade20k_pp"
SWIN = SwinConfig(
    embed_dim=16, num_heads=(2, 2, 2, 2), window_size=5, depths=(2, 2, 2, 2), drop_path_rate=0.0
)

SMALLER, DROP_PATH = (16, 24), 0.3
CANVASES = ("64x96", "96x64", "70x130")  # the first two have as many pixels on every level
LOSS_WEIGHTS = {
    "class_weight": 2.0,
    "mask_weight": 5.0,
    "dice_weight": 3.0,
    "no_object_weight": 0.3,
}
FEW_QUERIES = 5  # of two images with seven and three targets
EXTREME_SIZE = "64x70"  # of modules alone, whose number counts, not their size


def _forward(config: str, size: str) -> ForwardBench:
    return ForwardBench(entry_of(config).model, WEIGHTS, size)


def _swin(config: str, size: str) -> ForwardBench:
    """Two images with sides that nothing divides, and a Swin backbone, if a small one.

    Its last maps are smaller than a window, and every stage has a shifted block.
    """
    from maskformer.data.images import parse_size

    height, width = (_odd(side) for side in parse_size(size))
    sizes = f"{height}x{width},{height - SMALLER[0]}x{width - SMALLER[1]}"
    return ForwardBench(_with_swin(entry_of(config).model), WEIGHTS, sizes)


def _odd(side: int) -> int:
    """A side, this or a little smaller, that leaves 1 beyond patches of 4, and is padded by 3."""
    return side - (side - 1) % 4


def _with_swin(model: ModelConfig) -> ModelConfig:
    if isinstance(model.backbone, SwinConfig):
        return model
    return dataclasses.replace(model, backbone=SWIN)


def _batch(config: str, size: str) -> ForwardBench:
    return _forward(config, _two(size))


def _two(size: str) -> str:
    """The sizes of two images, of which the second is smaller and padded."""
    from maskformer.data.images import parse_size

    height, width = parse_size(size)
    return f"{size},{height - SMALLER[0]}x{width - SMALLER[1]}"


def _dropout(config: str, size: str) -> DropoutBench:
    """A configuration whose backbone drops no path is given a small Swin that does."""
    entry = entry_of(config)
    model = entry.model
    if getattr(model.backbone, "drop_path_rate", 0.0) == 0.0:
        model = dataclasses.replace(
            model, backbone=dataclasses.replace(SWIN, drop_path_rate=DROP_PATH)
        )
    return DropoutBench(model, entry.solver, WEIGHTS, f"{size},{size}")


def _training_swin(config: str, size: str) -> TrainingBench:
    entry = entry_of(config)
    return TrainingBench(_with_swin(entry.model), entry.solver, WEIGHTS, size)


def _training_variant(config: str, size: str) -> TrainingBench:
    """What the model has that its usual settings do not use."""
    entry = entry_of(config)
    changes: dict[str, Any] = {
        "predictor": dataclasses.replace(
            entry.model.predictor, dec_layers=3, enc_layers=1, pre_norm=True
        )
    }
    if isinstance(entry.model.backbone, ResNetConfig):
        changes["backbone"] = dataclasses.replace(entry.model.backbone, res5_dilation=2)
    model = dataclasses.replace(entry.model, **changes)
    return TrainingBench(model, entry.solver, WEIGHTS, size)


def _canvases(config: str, size: str) -> Any:
    from replication.faults.benches.state import CanvasBench

    return CanvasBench(_with_swin(entry_of(config).model), WEIGHTS, CANVASES)


def _training_settings(config: str, size: str) -> TrainingBench:
    """Every weight of the losses is another, and there are fewer queries than targets."""
    entry = entry_of(config)
    model = entry.model.replace(loss=LOSS_WEIGHTS, predictor={"num_queries": FEW_QUERIES})
    return TrainingBench(model, entry.solver, WEIGHTS, _two(size))


def _extreme(config: str, size: str) -> Any:
    from replication.faults.benches.extremes import ExtremeBench

    model = entry_of(config).model
    if not isinstance(model.backbone, SwinConfig):
        model = model.replace(backbone=dataclasses.replace(SWIN, depths=(1, 2, 1, 1)))
    return ExtremeBench(model, WEIGHTS, EXTREME_SIZE)


def _training_extreme(config: str, size: str) -> Any:
    from replication.faults.benches.extremes import ExtremeLossBench

    entry = entry_of(config)
    return ExtremeLossBench(entry.model, entry.solver, WEIGHTS, size)


def _training_precision(config: str, size: str) -> Any:
    from replication.faults.benches.extremes import PrecisionStepBench

    entry = entry_of(config)
    return PrecisionStepBench(entry.model, entry.solver, WEIGHTS, size)


def _training_bfloat16(config: str, size: str) -> Any:
    from replication.faults.benches.extremes import Bfloat16StepBench

    entry = entry_of(config)
    return Bfloat16StepBench(entry.model, entry.solver, WEIGHTS, size)


def _task(config: str, size: str) -> TaskBench:
    entry = entry_of(config)
    return TaskBench(entry.model, entry.solver, WEIGHTS, _two(size))


def _steps(config: str, size: str) -> StepsBench:
    entry = entry_of(config)
    return StepsBench(entry.model, entry.solver, WEIGHTS, size)


def _training(config: str, size: str) -> TrainingBench:
    entry = entry_of(config)
    return TrainingBench(entry.model, entry.solver, WEIGHTS, size)


def _inference(config: str, size: str) -> Any:
    from replication.faults.benches.inference import InferenceBench

    model = entry_of(config).model
    panoptic = model if model.inference.panoptic_on else zoo.model_config("tiny")
    return InferenceBench(panoptic, zoo.model_config(SEMANTIC), zoo.model_config(PER_PIXEL))


def _data(config: str, size: str) -> Any:
    from replication.faults.benches.data import DataBench

    return DataBench()


def _evaluation(config: str, size: str) -> Any:
    from replication.faults.benches.evaluation import EvaluationBench

    return EvaluationBench()


BENCHES: Mapping[str, Callable[[str, str], Any]] = {
    "model": _forward,
    "swin": _swin,
    "precision": lambda config, size: PrecisionBench(
        entry_of(config).model, WEIGHTS, size, "graph"
    ),
    "bfloat16": lambda config, size: Bfloat16Bench(entry_of(config).model, WEIGHTS, size),
    "xla": lambda config, size: PrecisionBench(entry_of(config).model, WEIGHTS, size, "xla"),
    "training": _training,
    "training_batch": lambda config, size: _training(config, _two(size)),
    "training_swin": _training_swin,
    "training_variant": _training_variant,
    "training_per_pixel": lambda config, size: _training(PER_PIXEL, _two(size)),
    "task": _task,
    "schedule": lambda config, size: ScheduleBench(),
    "replicas": lambda config, size: ReplicaBench(entry_of(config).model, entry_of(config).solver),
    "batch": _batch,
    "dropout": _dropout,
    "steps": _steps,
    "canvases": _canvases,
    "training_settings": _training_settings,
    "extreme": _extreme,
    "training_extreme": _training_extreme,
    "training_precision": _training_precision,
    "training_bfloat16": _training_bfloat16,
    "data": _data,
    "evaluation": _evaluation,
    "inference": _inference,
}
"""What builds each bench, from the name of a zoo configuration and the size of its image."""
