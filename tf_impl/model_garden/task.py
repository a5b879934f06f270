"""The Model Garden's task: what Orbit needs to train and evaluate a MaskFormer."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras
from official.core import base_task, task_factory
from official.modeling import optimization

import tf_impl
from maskformer.model.solver import SolverConfig
from maskformer.runs.run_settings import check_parts
from parity.errors import InputError
from tf_impl import micro_batches
from tf_impl import train_step as steps
from tf_impl.criterion import weighted_total
from tf_impl.dataset import TrainingData, advance_plan, training_dataset
from tf_impl.evaluation import EvaluationData, RecordScores, check_classes, evaluation_dataset
from tf_impl.layers import dropout_seed, wide
from tf_impl.matcher import Targets
from tf_impl.model_garden.experiments import (
    EvaluationDataConfig,
    OptimizationConfig,
    RuntimeConfig,
    TaskConfig,
    TrainingDataConfig,
    inputs_of,
    model_of,
    shapes_of,
    solver_of,
)
from tf_impl.optimizer import set_groups
from tf_impl.schedule import SolverSchedule
from tf_impl.sentinels import sentinel_counts
from tf_impl.storage.tfrecord import RecordFolder

MODULES = ("model", "backbone")
INDEX = "index"


@task_factory.register_task_cls(TaskConfig)
class MaskFormerTask(base_task.Task):
    """A single replica's view of training and evaluation; `experiments` has its settings.

    Logs of a train step are float32 or float64 scalars over all replicas: means of the losses, the
    gradient norm before clipping, and the counts of `sentinel_counts` and `overflow`, summed.
    """

    def __init__(
        self,
        params: TaskConfig,
        logging_dir: str | None = None,
        name: str | None = None,
        *,
        policy: str = "float32",
        first_step: int = 0,
    ) -> None:
        """`policy` names the model's tf_keras policy; training data begins after `first_step`."""
        super().__init__(params, logging_dir=logging_dir, name=name)
        self.config = model_of(params)
        self.inputs = inputs_of(params)
        self._policy, self._first_step = policy, first_step
        self._model: tf_keras.Model | None = None
        self._evaluation: EvaluationData | None = None
        if params.init_checkpoint_modules not in MODULES:
            raise InputError(
                f"task.init_checkpoint_modules is {params.init_checkpoint_modules!r}",
                f"expected: one of {MODULES}",
            )

    @property
    def float_dtype(self) -> str:
        """The dtype of images, losses and learning rates: float32, or float64 in such a model."""
        return "float64" if self._policy == "float64" else "float32"

    def build_model(self) -> tf_keras.Model:
        """The model, randomly initialised from the task's seed, which becomes Keras' own.

        TensorFlow's alone would not do: an initialiser draws its seed from Python's generator.
        """
        tf_keras.utils.set_random_seed(self.task_config.seed)
        model = tf_impl.build(self.config, self._policy)
        model.criterion.normalisation = self.task_config.normalisation
        self._model = model
        return model

    def initialize(self, model: tf_keras.Model) -> None:
        """Loads `init_checkpoint`, the whole model or its backbone; every variable must be there.

        Raises InputError where it does not exist or does not fit.
        """
        path = self.task_config.init_checkpoint
        if not path:
            return
        prefix = tf.train.latest_checkpoint(path) if tf.io.gfile.isdir(path) else path
        if not prefix or not tf.io.gfile.exists(f"{prefix}.index"):
            raise InputError(
                f"task.init_checkpoint is {path}",
                "there is no TensorFlow checkpoint",
                "Write one with `parity convert SOURCE --to tf`.",
            )
        modules = self.task_config.init_checkpoint_modules
        parts = {"model": model} if modules == "model" else {"backbone": model.backbone}
        try:
            status = tf.train.Checkpoint(**parts).read(prefix).expect_partial()
            status.assert_existing_objects_matched()
        except (tf.errors.OpError, ValueError, AssertionError) as error:
            raise InputError(
                f"the checkpoint {prefix} does not fit {self.config.name}",
                " ".join(str(error).split())[:300],
                "Convert the checkpoint of this configuration, or take the backbone only with "
                "task.init_checkpoint_modules: backbone.",
            ) from None

    def build_inputs(
        self,
        params: TrainingDataConfig | EvaluationDataConfig,
        input_context: tf.distribute.InputContext | None = None,
    ) -> tf.data.Dataset:
        """One host's batches, each for one replica; the replicas of a host take them in turn.

        Raises InputError for missing data, data of other classes, and a batch that the replicas
        cannot share.
        """
        context = input_context or tf.distribute.InputContext()
        total = context.num_replicas_in_sync
        local = total // context.num_input_pipelines
        batch = params.global_batch_size
        if batch < 1 or batch % total:
            raise InputError(
                f"global_batch_size is {batch}",
                f"{total} replicas share it",
                f"Choose a multiple of {total}.",
            )
        if isinstance(params, TrainingDataConfig):
            check_parts(batch // total, self.task_config.micro_batches)
            return self._training_inputs(params, context.input_pipeline_id, total, local)
        return self._evaluation_inputs(params, batch // total, local)

    def _records(self, path: str) -> RecordFolder:
        if not path:
            raise InputError(
                "the experiment names no data",
                "task.train_data.input_path or task.validation_data.input_path is empty",
                "Give the folder of a split that `parity data tfrecord SRC OUT` wrote.",
            )
        records = RecordFolder(path)
        check_classes(records, self.config)
        return records

    def _training_inputs(
        self, params: TrainingDataConfig, pipeline: int, total: int, local: int
    ) -> tf.data.Dataset:
        data = TrainingData(
            self._records(params.input_path),
            self.inputs,
            self.task_config.seed,
            params.capacity,
            params.exact,
        )
        plan = {"batch_size": params.global_batch_size, "buckets": shapes_of(params.buckets)}
        if len(plan["buckets"]) == 1:
            state = {"position": self._first_step * params.global_batch_size}
        else:
            state = advance_plan(data, steps=self._first_step, **plan)
        return training_dataset(
            data,
            **plan,
            state=state,
            parallel_calls=params.parallel_calls or None,
            rank=pipeline,
            world_size=total // local,
            replicas=local,
        )

    def _evaluation_inputs(
        self, params: EvaluationDataConfig, batch: int, local: int
    ) -> tf.data.Dataset:
        buckets = shapes_of(params.buckets)
        if batch > 1 and not buckets:
            raise InputError(
                f"task.validation_data: {batch} images per replica, and no buckets",
                "images at their own sizes cannot share a batch",
                "Give task.validation_data.buckets, or one image per replica.",
            )
        records = self._records(params.input_path)
        self._evaluation = EvaluationData(records, self.config, self.inputs, buckets)
        return evaluation_dataset(self._evaluation, batch, local)

    def build_losses(
        self, labels: Any, model_outputs: Mapping[str, Any], aux_losses: Any = None
    ) -> tf.Tensor:
        """The weighted sum of a replica's losses; `labels` as in `tf_impl.train_step.Batch`."""
        losses, _ = steps.batch_losses(self._model, model_outputs, labels)
        return weighted_total(losses, self.config.loss)

    def build_metrics(self, training: bool = True) -> list[Any]:
        """None: `train_step` logs a step's values, and scores are counted on the host."""
        return []

    def create_optimizer(
        self, optimizer_config: OptimizationConfig, runtime_config: RuntimeConfig | None = None
    ) -> tf_keras.optimizers.Optimizer:
        """The published optimizer of the model built before, with schedule and parameter groups."""
        solver = self.solver(optimizer_config)
        factory = optimization.OptimizerFactory(optimizer_config)
        schedule = SolverSchedule(solver, self.float_dtype)
        optimizer = factory.build_optimizer(schedule, use_legacy_optimizer=False)
        set_groups(optimizer, self._model, solver)
        optimizer.build(self._model.trainable_variables)
        return optimizer

    def solver(self, optimizer_config: OptimizationConfig) -> SolverConfig:
        """The settings of the optimizer as both sides know them."""
        return solver_of(optimizer_config, self.task_config.train_data.global_batch_size)

    def train_step(
        self,
        inputs: Mapping[str, tf.Tensor],
        model: tf_keras.Model,
        optimizer: tf_keras.optimizers.Optimizer,
        metrics: Any = None,
    ) -> dict[str, tf.Tensor]:
        """One update from one replica's batch of `training_dataset`; see the class for the logs."""
        batch = self._batch(inputs)
        found, counts = self._found(model, batch, self._seed(optimizer.iterations))
        norm = steps.update(model, optimizer, found.values)
        losses = {self.loss: found.total, **found.losses}
        counts = {"overflow": tf.reduce_sum(inputs["overflow"]), **counts}
        return {**_reduced(losses, counts), "gradient_norm": norm}

    def _found(
        self, model: tf_keras.Model, batch: steps.Batch, seed: tf.Tensor
    ) -> tuple[steps.Gradients, dict[str, tf.Tensor]]:
        """The gradients of a replica's batch, at once or in parts, and the counts of sentinels."""

        def observe(found: steps.Gradients, part: steps.Batch) -> dict[str, tf.Tensor]:
            if found.matching is None:
                return {}
            return sentinel_counts(found.outputs, part.targets, found.matching)

        def seeded(part: tf.Tensor) -> Any:
            return dropout_seed(tf.random.experimental.stateless_fold_in(seed, part))

        parts = self.task_config.micro_batches
        if parts > 1:
            return micro_batches.gradients(model, batch, parts, True, observe, seeded)
        with dropout_seed(seed):
            found = self.gradients(model, batch, training=True)
        return found, observe(found, batch)

    def gradients(
        self, model: tf_keras.Model, batch: steps.Batch, training: bool = False
    ) -> steps.Gradients:
        """What `train_step` updates the weights by: `tf_impl.train_step.gradients`."""
        return steps.gradients(model, batch, training)

    def _batch(self, inputs: Mapping[str, tf.Tensor]) -> steps.Batch:
        images = tf.cast(inputs["images"], self.float_dtype)
        targets: Any = Targets(
            inputs["target_map"], inputs["class_ids"], inputs["valid"], inputs["overflow"]
        )
        if self.config.is_per_pixel:
            targets = _label_map(targets, self.config.ignore_value)
        return steps.Batch(images, inputs["sizes"], targets)

    def _seed(self, step: tf.Variable) -> tf.Tensor:
        """The seed of a replica's dropout: a function of the run's seed, the step, the replica."""
        context = tf.distribute.get_replica_context()
        replica = context.replica_id_in_sync_group if context else 0
        seed = tf.constant([self.task_config.seed, 0], tf.int32)
        for number in (tf.cast(step, tf.int32), replica):
            seed = tf.random.experimental.stateless_fold_in(seed, number)
        return seed

    def validation_step(
        self, inputs: Mapping[str, tf.Tensor], model: tf_keras.Model, metrics: Any = None
    ) -> dict[str, tf.Tensor]:
        """The outputs for a batch of `evaluation_dataset`, with its `sizes` and `index`."""
        images = tf.cast(inputs["images"], self.float_dtype)
        outputs = model(images, sizes=inputs["sizes"], training=False)
        kept = {key: wide(value) for key, value in outputs.items() if key != "aux_outputs"}
        padded = tf.constant(images.shape[1:3], tf.int32)
        return {**kept, "sizes": inputs["sizes"], INDEX: inputs[INDEX], "padded": padded}

    def aggregate_logs(
        self, state: RecordScores | None, step_logs: Mapping[str, tuple[tf.Tensor, ...]]
    ) -> RecordScores:
        """Adds the outputs of all local replicas to the scores; on the host."""
        scores = RecordScores(self._evaluation) if state is None else state
        with tf.device("CPU:0"):
            for replica in range(len(step_logs[INDEX])):
                logs = {name: tf.identity(values[replica]) for name, values in step_logs.items()}
                padded = tuple(logs.pop("padded").numpy().tolist())
                scores.add(logs, padded)
        return scores

    def reduce_aggregated_logs(
        self, aggregated_logs: RecordScores, global_step: tf.Tensor | None = None
    ) -> dict[str, float]:
        """Panoptic quality and mean IoU in percent, named as in `maskformer.runs.run_record`."""
        return aggregated_logs.counts.values()


def _label_map(targets: Targets, ignored: int) -> tf.Tensor:
    """Class ids int32 [B,H,W] of what a per-pixel head learns; `ignored` where there is none."""
    classes = tf.gather(targets.classes, tf.maximum(targets.masks, 0), batch_dims=1)
    return tf.where(targets.masks < 0, ignored, classes)


def _reduced(means: Mapping[str, tf.Tensor], sums: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Scalars over all replicas, in one reduction."""
    context = tf.distribute.get_replica_context()
    names = [*means, *sums]
    dtype = next(iter(means.values())).dtype
    values = tf.stack([tf.cast(value, dtype) for value in (*means.values(), *sums.values())])
    if context is not None and context.num_replicas_in_sync > 1:
        values = context.all_reduce(tf.distribute.ReduceOp.SUM, values)
        shares = [1.0 / context.num_replicas_in_sync] * len(means) + [1.0] * len(sums)
        values *= tf.constant(shares, dtype)
    return dict(zip(names, tf.unstack(values), strict=True))
