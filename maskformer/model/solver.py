"""How a published model is optimised: the constants, the parameter groups and the learning rate.

Framework-free, so that both trainers read one source. The rules are those of the original's
`train_net.py` (`Trainer.build_optimizer`) and of detectron2's `solver/` and `projects/DeepLab`.
"""

from bisect import bisect_right
from dataclasses import dataclass

from parity.errors import InputError

OPTIMIZERS = ("ADAMW", "SGD")
SCHEDULES = ("WarmupMultiStepLR", "WarmupPolyLR")
WARMUP_METHODS = ("linear", "constant")
CLIP_TYPES = ("full_model", "none")

NORM_KINDS = frozenset({"BatchNorm2d", "SyncBatchNorm", "GroupNorm", "LayerNorm"})
EMBEDDING_KINDS = frozenset({"Embedding"})
UNDECAYED_PARAMETERS = frozenset({"relative_position_bias_table", "absolute_pos_embed"})


def _check(condition: bool, fact: str, expected: str) -> None:
    if not condition:
        raise InputError(fact, f"expected: {expected}")


@dataclass(frozen=True)
class SolverConfig:
    """Everything that fixes how weights are updated, except the gradients.

    The defaults are those of `maskformer_panoptic_R50_bs64_554k.yaml`. Learning rates are those of
    the head; the backbone's is `backbone_multiplier` times as large. `clip_type` "full_model"
    scales all gradients by one norm, as every published config does. `steps` and `gamma` are read
    by WarmupMultiStepLR only, `power` by WarmupPolyLR only; iterations count from 0.
    """

    base_lr: float = 1e-4
    optimizer: str = "ADAMW"
    weight_decay: float = 1e-4
    weight_decay_norm: float = 0.0
    weight_decay_embed: float = 0.0
    backbone_multiplier: float = 0.1
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_type: str = "full_model"
    clip_value: float = 0.01
    clip_norm_type: float = 2.0
    schedule: str = "WarmupMultiStepLR"
    max_iter: int = 554_400
    steps: tuple[int, ...] = (369_600,)
    gamma: float = 0.1
    power: float = 0.9
    warmup_factor: float = 1.0
    warmup_iters: int = 10
    warmup_method: str = "linear"
    ims_per_batch: int = 64

    def __post_init__(self) -> None:
        for name, allowed in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("warmup_method", WARMUP_METHODS),
            ("clip_type", CLIP_TYPES),
        ):
            value = getattr(self, name)
            _check(value in allowed, f"solver.{name} is {value!r}", f"one of {allowed}")
        _check(self.max_iter >= 1, f"solver.max_iter is {self.max_iter}", "at least 1")
        _check(
            0 <= self.warmup_iters <= self.max_iter,
            f"solver.warmup_iters is {self.warmup_iters}",
            f"0 to max_iter = {self.max_iter}",
        )
        _check(
            list(self.steps) == sorted(self.steps),
            f"solver.steps is {self.steps}",
            "increasing iterations",
        )
        _check(
            self.clip_type == "none" or self.clip_value > 0,
            f"solver.clip_value is {self.clip_value}",
            "above 0, or clip_type 'none'",
        )
        _check(
            self.clip_norm_type == 2.0,
            f"solver.clip_norm_type is {self.clip_norm_type}",
            "2.0, the only norm a published config uses",
        )


def parameter_group(kind: str, path: str, solver: SolverConfig) -> tuple[float, float]:
    """The learning rate (at multiplier 1) and weight decay of one trainable parameter.

    `kind` is the torch class name of the module that owns the parameter ("LayerNorm", "Conv2d",
    ...), `path` its state-dict key. Biases of convolutions and linear layers are decayed.
    Source: the original's `train_net.py`, `Trainer.build_optimizer`.
    """
    in_backbone = path.split(".", 1)[0] == "backbone"
    lr = solver.base_lr * solver.backbone_multiplier if in_backbone else solver.base_lr
    if kind in NORM_KINDS:
        return lr, solver.weight_decay_norm
    if kind in EMBEDDING_KINDS:
        return lr, solver.weight_decay_embed
    if path.rsplit(".", 1)[-1] in UNDECAYED_PARAMETERS:
        return lr, 0.0
    return lr, solver.weight_decay


def learning_rate(solver: SolverConfig, step: int, base_lr: float | None = None) -> float:
    """The learning rate of the update numbered `step`, counted from 0, equal to the bit.

    `base_lr` is a group's own rate, by default the head's. At a milestone the new rate already
    holds. Sources: fvcore's `MultiStepParamScheduler` inside detectron2's `WarmupParamScheduler`;
    `WarmupPolyLR` of detectron2's `projects/DeepLab`. The order of the operations is theirs.
    """
    base = solver.base_lr if base_lr is None else base_lr
    if solver.schedule == "WarmupPolyLR":
        decay = max(0.0, 1.0 - step / solver.max_iter) ** solver.power
        return base * _poly_warmup(solver, step) * decay
    return base * _multi_step_multiplier(solver, step)


def _multi_step_multiplier(solver: SolverConfig, step: int) -> float:
    """Warm-up runs towards the value that the milestones give at its end."""
    if step >= solver.warmup_iters:
        return solver.gamma ** bisect_right(solver.steps, step)
    start = solver.warmup_factor * solver.gamma ** bisect_right(solver.steps, 0)
    if solver.warmup_method == "constant":
        return start
    end = solver.gamma ** bisect_right(solver.steps, solver.warmup_iters)
    where = (step / solver.max_iter) / (solver.warmup_iters / solver.max_iter)
    return end * where + start * (1 - where)


def _poly_warmup(solver: SolverConfig, step: int) -> float:
    """A factor on the decaying rate, not a ramp towards it."""
    if step >= solver.warmup_iters:
        return 1.0
    if solver.warmup_method == "constant":
        return solver.warmup_factor
    alpha = step / solver.warmup_iters
    return solver.warmup_factor * (1 - alpha) + alpha
