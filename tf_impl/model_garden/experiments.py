"""The Model Garden's experiments: one per entry of the zoo, with the published schedule.

An experiment is called `maskformer_` and the entry's name; COCO's entries, which the zoo calls
`coco_*`, are `coco_panoptic_*` here, as the original's folder of configs is.
"""

import copy
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from official.core import config_definitions, exp_factory
from official.modeling.hyperparams import base_config, oneof
from official.modeling.optimization.configs import optimization_config

from maskformer.data.images import parse_size
from maskformer.model import zoo
from maskformer.model.config import (
    InferenceConfig,
    LossConfig,
    ModelConfig,
    PixelDecoderConfig,
    PredictorConfig,
    ResNetConfig,
    SwinConfig,
)
from maskformer.model.detectron2_config import entry_of
from maskformer.model.inputs import CropConfig, InputConfig
from maskformer.model.solver import SolverConfig
from maskformer.runs.run_settings import RunSettings, buckets
from parity.errors import InputError
from tf_impl import optimizer as optimizers

PREFIX = "maskformer_"
DEFAULT_CAPACITY = 100
"""Targets an image has room for where queries do not say: more than any image of COCO has."""

STEPS_PER_EPOCH_OF_RECORD = 50
"""Steps between rows of the record in the published schedules (detectron2 writes every 20)."""


@dataclasses.dataclass
class TrainingDataConfig(base_config.Config):
    """Training batches.

    Attributes:
        input_path: folder of the records of one split (`parity data tfrecord`); `gs://` is one.
        global_batch_size: images per update, over all replicas.
        buckets: "HEIGHTxWIDTH" that batches are padded to; each is a program of its own.
        capacity: targets an image has room for.
        exact: Pillow's pixels; false lets TensorFlow resize, faster, within one level.
        parallel_calls: images prepared at once on a host; 0 lets tf.data choose.
    """

    input_path: str = ""
    global_batch_size: int = 0
    buckets: tuple[str, ...] = ()
    capacity: int = DEFAULT_CAPACITY
    exact: bool = True
    parallel_calls: int = 0


@dataclasses.dataclass
class EvaluationDataConfig(base_config.Config):
    """Evaluation images.

    Attributes:
        input_path: folder of the records of one split.
        global_batch_size: images at once, over all replicas.
        buckets: "HEIGHTxWIDTH" that images are padded to. None of them: each image by itself at
            its own size, as the original tests, which needs one image per replica and no TPU.
    """

    input_path: str = ""
    global_batch_size: int = 1
    buckets: tuple[str, ...] = ()


@dataclasses.dataclass
class TaskConfig(config_definitions.TaskConfig):
    """What is learnt from what.

    Attributes:
        entry: the zoo entry that `model` and `inputs` were taken from.
        model: `maskformer.model.config.ModelConfig`, field by field.
        inputs: `maskformer.model.inputs.InputConfig`, field by field.
        init_checkpoint: a TensorFlow checkpoint (`parity convert --to tf`), or empty.
        init_checkpoint_modules: "model" or "backbone".
        normalisation: of losses over replicas: "ddp_mean", the original's, or "global".
        micro_batches: equal parts of a replica's batch, computed one after the other.
        seed: of the data's draws, the initialisation and dropout.
    """

    entry: str = ""
    model: base_config.Config = dataclasses.field(default_factory=base_config.Config)
    inputs: base_config.Config = dataclasses.field(default_factory=base_config.Config)
    init_checkpoint_modules: str = "model"
    normalisation: str = "ddp_mean"
    micro_batches: int = 1
    seed: int = 0
    train_data: TrainingDataConfig = dataclasses.field(default_factory=TrainingDataConfig)
    validation_data: EvaluationDataConfig = dataclasses.field(default_factory=EvaluationDataConfig)


@dataclasses.dataclass
class WarmupMultiStepConfig(base_config.Config):
    """detectron2's WarmupMultiStepLR: `base_lr`, times `gamma` from each of `steps` on."""

    base_lr: float = 1e-4
    max_iter: int = 0
    steps: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup_factor: float = 1.0
    warmup_iters: int = 0
    warmup_method: str = "linear"


@dataclasses.dataclass
class WarmupPolyConfig(base_config.Config):
    """DeepLab's WarmupPolyLR: `base_lr` times (1 - step / max_iter) ** power."""

    base_lr: float = 1e-4
    max_iter: int = 0
    power: float = 0.9
    warmup_factor: float = 1.0
    warmup_iters: int = 0
    warmup_method: str = "linear"


@dataclasses.dataclass
class LearningRateConfig(oneof.OneOfConfig):
    """The published schedules, computed by `tf_impl.schedule` as torch computes them."""

    type: str | None = "warmup_multi_step"
    warmup_multi_step: WarmupMultiStepConfig = dataclasses.field(
        default_factory=WarmupMultiStepConfig
    )
    warmup_poly: WarmupPolyConfig = dataclasses.field(default_factory=WarmupPolyConfig)


@dataclasses.dataclass
class OptimizationConfig(optimization_config.OptimizationConfig):
    """Optimizer, schedule and parameter groups; with `solver_of` the same as a `SolverConfig`."""

    optimizer: optimizers.OptimizerConfig = dataclasses.field(
        default_factory=optimizers.OptimizerConfig
    )
    learning_rate: LearningRateConfig = dataclasses.field(default_factory=LearningRateConfig)
    backbone_multiplier: float = 0.1
    weight_decay_norm: float = 0.0
    weight_decay_embed: float = 0.0


@dataclasses.dataclass
class TrainerConfig(config_definitions.TrainerConfig):
    """The Model Garden's settings, as this project's loop needs them.

    A row of the record is written every `steps_per_loop` steps. Post-processing is done on the
    host, outside TensorFlow's graph.
    """

    optimizer_config: OptimizationConfig = dataclasses.field(default_factory=OptimizationConfig)
    train_tf_while_loop: bool = False
    eval_tf_function: bool = False
    recovery_max_trials: int = -1


@dataclasses.dataclass
class RuntimeConfig(config_definitions.RuntimeConfig):
    """The Model Garden's settings, and what exact repetition needs.

    Attributes:
        mixed_precision_dtype: "float32", "bfloat16" (variables, losses, costs and norms stay in
            float32), or "float64" on CPUs.
        enable_xla: compile the train step on CPUs and single GPUs; a TPU always does.
        logical_cpus: replicas of "mirrored" where there is no GPU.
        threads: of TensorFlow's pools; 0 lets it choose.
        deterministic: TensorFlow's determinism switch: equal runs are equal bit for bit.
    """

    distribution_strategy: str = "one_device"
    logical_cpus: int = 1
    threads: int = 0
    deterministic: bool = False


def experiment_name(entry_name: str) -> str:
    """The experiment of a zoo entry; see the module. A YAML file's is called by its path."""
    if zoo.is_file(entry_name):
        return entry_name
    if entry_name.startswith("coco_"):
        entry_name = f"coco_panoptic_{entry_name.removeprefix('coco_')}"
    return PREFIX + entry_name


def experiment(entry: zoo.Entry) -> config_definitions.ExperimentConfig:
    """The published run of `entry` as an experiment; paths of data and weights are empty."""
    solver, model = entry.solver, entry.model
    interval = max(1, min(5000, solver.max_iter // 10))
    return config_definitions.ExperimentConfig(
        task=TaskConfig(
            entry=entry.name,
            model=base_config.Config(_plain(model.to_dict())),
            inputs=base_config.Config(_plain(dataclasses.asdict(entry.inputs))),
            train_data=TrainingDataConfig(
                global_batch_size=solver.ims_per_batch,
                buckets=tuple(f"{h}x{w}" for h, w in buckets(entry.inputs)),
                capacity=_capacity(model),
            ),
            validation_data=EvaluationDataConfig(),
        ),
        trainer=TrainerConfig(
            optimizer_config=optimization_of(solver),
            train_steps=solver.max_iter,
            steps_per_loop=min(STEPS_PER_EPOCH_OF_RECORD, interval),
            summary_interval=min(STEPS_PER_EPOCH_OF_RECORD, interval),
            checkpoint_interval=interval,
            validation_interval=entry.eval_period or solver.max_iter,
            max_to_keep=3,
        ),
        runtime=RuntimeConfig(),
        restrictions=[
            "task.train_data.global_batch_size != None",
            "trainer.train_steps != None",
        ],
    )


def _capacity(model: ModelConfig) -> int:
    """A matcher never pairs more targets than queries; a per-pixel head has a class a target."""
    return model.num_classes if model.is_per_pixel else model.predictor.num_queries


def optimization_of(solver: SolverConfig) -> OptimizationConfig:
    """`solver` in the Model Garden's terms; `solver_of` is the inverse."""
    clip = solver.clip_value if solver.clip_type == "full_model" else None
    common = {"weight_decay_rate": solver.weight_decay, "global_clipnorm": clip}
    if solver.optimizer == "ADAMW":
        beta_1, beta_2 = solver.betas
        adamw = {**common, "beta_1": beta_1, "beta_2": beta_2, "epsilon": solver.eps}
        optimizer = {"type": "torch_adamw", "torch_adamw": adamw}
    else:
        sgd = {**common, "momentum": solver.momentum}
        optimizer = {"type": "torch_sgd", "torch_sgd": sgd}
    kind = "warmup_poly" if solver.schedule == "WarmupPolyLR" else "warmup_multi_step"
    known = dataclasses.asdict(solver)
    config = OptimizationConfig()
    chosen = getattr(config.learning_rate, kind)
    config.override(
        {
            "optimizer": optimizer,
            "learning_rate": {
                "type": kind,
                kind: {name: _plain(known[name]) for name in chosen.as_dict()},
            },
            "backbone_multiplier": solver.backbone_multiplier,
            "weight_decay_norm": solver.weight_decay_norm,
            "weight_decay_embed": solver.weight_decay_embed,
        }
    )
    return config


def solver_of(config: OptimizationConfig, batch: int) -> SolverConfig:
    """The `SolverConfig` of an optimisation of `batch` images per update.

    Raises InputError for values that no solver has.
    """
    kinds = {"torch_adamw": "ADAMW", "torch_sgd": "SGD"}
    schedules = {"warmup_poly": "WarmupPolyLR", "warmup_multi_step": "WarmupMultiStepLR"}
    for what, value, known in (
        ("optimizer", config.optimizer.type, kinds),
        ("learning_rate", config.learning_rate.type, schedules),
    ):
        if value not in known:
            raise InputError(f"{what}.type is {value!r}", f"expected: one of {tuple(known)}")
    optimizer, rate = config.optimizer.get(), config.learning_rate.get().as_dict()
    values = {"steps": ()} | {k: tuple(v) if isinstance(v, list) else v for k, v in rate.items()}
    if config.optimizer.type == "torch_adamw":
        values |= {"betas": (optimizer.beta_1, optimizer.beta_2), "eps": optimizer.epsilon}
    else:
        values |= {"momentum": optimizer.momentum}
    if optimizer.global_clipnorm:
        values |= {"clip_value": optimizer.global_clipnorm}
    return SolverConfig(
        **values,
        optimizer=kinds[config.optimizer.type],
        schedule=schedules[config.learning_rate.type],
        clip_type="full_model" if optimizer.global_clipnorm else "none",
        weight_decay=optimizer.weight_decay_rate,
        weight_decay_norm=config.weight_decay_norm,
        weight_decay_embed=config.weight_decay_embed,
        backbone_multiplier=config.backbone_multiplier,
        ims_per_batch=batch,
    )


def model_of(task: TaskConfig) -> ModelConfig:
    """The model that a task's settings describe. Raises InputError for impossible ones."""
    values = copy.deepcopy(task.model.as_dict())
    kind = values["backbone"].pop("kind")
    kinds = {
        "backbone": SwinConfig if kind == "swin" else ResNetConfig,
        "pixel_decoder": PixelDecoderConfig,
        "predictor": PredictorConfig,
        "loss": LossConfig,
        "inference": InferenceConfig,
    }
    sections = {name: _frozen(cls, values.pop(name)) for name, cls in kinds.items()}
    return _frozen(ModelConfig, values, sections)


def inputs_of(task: TaskConfig) -> InputConfig:
    """The input settings of a task. Raises InputError for impossible ones."""
    values = task.inputs.as_dict()
    crop = values.pop("crop")
    sections = {"crop": _frozen(CropConfig, crop) if crop else None}
    return _frozen(InputConfig, values, sections)


def _frozen(cls: type, values: Mapping[str, Any], sections: Mapping[str, Any] | None = None) -> Any:
    tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return cls(**tuples, **(sections or {}))


def _plain(value: Any) -> Any:
    """The value with lists for tuples, as the Model Garden's settings and YAML have them."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def shapes_of(texts: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """(height, width) of each "HEIGHTxWIDTH". Raises InputError for anything else."""
    return tuple(parse_size(text) for text in texts)


def policy_of(runtime: RuntimeConfig) -> str:
    """The tf_keras policy of `mixed_precision_dtype`. Raises InputError for an unknown one."""
    policies = {
        None: "float32",
        "float32": "float32",
        "bfloat16": "mixed_bfloat16",
        "float64": "float64",
    }
    if runtime.mixed_precision_dtype not in policies:
        raise InputError(
            f"runtime.mixed_precision_dtype is {runtime.mixed_precision_dtype!r}",
            f"expected: one of {[name for name in policies if name]}",
            "float16 would need loss scaling, which the original's clipping does not go with.",
        )
    return policies[runtime.mixed_precision_dtype]


def settings_of(params: config_definitions.ExperimentConfig) -> RunSettings:
    """The settings that a run of `params` has in its record. Raises InputError for wrong ones."""
    task, trainer = params.task, params.trainer
    solver = solver_of(trainer.optimizer_config, task.train_data.global_batch_size)
    values = {
        "config": task.entry,
        "data": task.train_data.input_path,
        "steps": trainer.train_steps,
        "batch": task.train_data.global_batch_size,
        "capacity": task.train_data.capacity,
        "seed": task.seed,
        "dtype": policy_of(params.runtime).removeprefix("mixed_"),
        "eval_every": trainer.validation_interval,
        "checkpoint_every": trainer.checkpoint_interval,
        "record_every": trainer.steps_per_loop,
        "keep": trainer.max_to_keep,
        "initial": task.init_checkpoint or None,
        "normalisation": task.normalisation,
        "micro_batches": task.micro_batches,
    }
    wanted = dataclasses.asdict(solver)
    usual = dataclasses.asdict(RunSettings(**values).solver_config())
    changes = {name: value for name, value in wanted.items() if value != usual[name]}
    settings = RunSettings(**values, solver=changes)
    if settings.solver_config() != solver:
        # A stated end of the schedule keeps the entry's warm-up whole: state it too.
        changes |= {"warmup_iters": solver.warmup_iters}
        settings = dataclasses.replace(settings, solver=changes)
    return settings


def register() -> None:
    """Registers one experiment per zoo entry with the Model Garden's factory, once."""
    for entry in zoo.ENTRIES.values():
        exp_factory.register_config_factory(experiment_name(entry.name))(
            functools.partial(experiment, entry)
        )


def register_file(path: str) -> None:
    """Registers the run that the original's YAML file of this absolute path describes, by the path.

    Raises InputError for a file that is unusable.
    """
    params = experiment(entry_of(path))
    params.task.entry = path
    exp_factory.register_config_factory(path)(lambda: params)


register()
