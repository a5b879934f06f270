"""Trains or evaluates a MaskFormer with the Model Garden's command line.

Example:

  python -m tf_impl.train --experiment=maskformer_scenes_tiny --mode=train_and_eval \\
      --model_dir=runs/tf --params_override='task.train_data.input_path=runs/records/train2017,
      task.validation_data.input_path=runs/records/val2017'

The folder receives `run.json`, `metrics.jsonl` (docs/training.md), TensorBoard files, checkpoints
and `params.yaml`. The same command continues a run that was interrupted.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
import yaml
from absl import app, flags, logging
from official.common import distribute_utils
from official.common import flags as model_garden_flags
from official.core import config_definitions, task_factory, train_lib, train_utils

from maskformer.model.zoo import is_file
from maskformer.runs.run_record import DESCRIPTION
from maskformer.runs.run_settings import RunSettings, check_resumable
from parity.errors import InputError
from parity.provenance import git_state
from parity.reading import bounds
from parity.reading.content import parse_json
from tf_impl import checkpointing, replicas
from tf_impl.model_garden.experiments import RuntimeConfig, policy_of, register_file, settings_of
from tf_impl.storage.run_folder import RunFolder, check_writable
from tf_impl.storage.tfrecord import RecordFolder
from tf_impl.trainer import Controller, Progress, Trainer

MODES = ("train", "eval", "train_and_eval", "continuous_eval", "train_and_post_eval")
STRATEGIES = ("off", "one_device", "mirrored", "multi_worker_mirrored", "tpu")
PACKAGES = ("tensorflow", "tf_keras", "tf-models-official", "numpy", "pillow")
EVALUATIONS = "validation"
"""Where modes that only evaluate keep their record, apart from a training that may be running."""

Experiment = config_definitions.ExperimentConfig


def parse(flag_values: Any) -> Experiment:
    """The experiment of the flags, with overrides applied; raises InputError for unusable ones."""
    if is_file(flag_values.experiment):
        register_file(flag_values.experiment)
    try:
        params = train_utils.parse_configuration(flag_values, lock_return=False, print_return=False)
    except LookupError as error:
        raise InputError(
            "the experiment or a setting does not exist",
            " ".join(str(error).split())[:300],
            "docs/training.md lists the experiments; `params.yaml` of a run lists all settings.",
        ) from None
    except (tf.errors.OpError, yaml.YAMLError, ValueError, TypeError) as error:
        raise InputError(
            "--config_file or --params_override cannot be read",
            " ".join(str(error).split())[:300],
            "Expected: a YAML file, or settings such as trainer.train_steps=100.",
        ) from None
    if params.runtime.tpu:
        params.runtime.distribution_strategy = "tpu"
    return params


def run(
    params: Experiment,
    mode: str,
    model_dir: str,
    progress: Progress | None = None,
    command: str | None = None,
) -> dict[str, float]:
    """Runs an experiment in `model_dir` and returns the scores of its last evaluation.

    A training that `model_dir` already holds is continued from its newest usable checkpoint; the
    record keeps the `command` that began it.
    Raises InputError for data, checkpoints, folders and devices that cannot be used; nothing has
    been trained then.
    """
    if mode not in MODES:
        raise InputError(f"--mode is {mode!r}", f"expected: one of {', '.join(MODES)}")
    training = "train" in mode
    settings = settings_of(params)
    _check(params, training, "eval" in mode)
    for data in (params.task.train_data, params.task.validation_data):
        if data.input_path:
            RecordFolder(data.input_path)
    configure_runtime(params.runtime)
    strategy = open_strategy(params.runtime)
    chief = strategy.extended.should_checkpoint
    check_writable(model_dir)
    saved = checkpointing.newest_usable(model_dir)
    folder = model_dir if training else tf.io.gfile.join(model_dir, EVALUATIONS)
    if training and chief:
        _check_same_run(model_dir, settings)
        train_utils.serialize_config(params, model_dir)
    if chief and saved and tf.train.latest_checkpoint(model_dir) != saved.prefix:
        checkpointing.select(model_dir, saved)
    if not training and mode == "eval" and not saved and not params.task.init_checkpoint:
        raise InputError(
            f"--model_dir {model_dir} holds no checkpoint",
            "task.init_checkpoint is empty, too",
            "Train first, or give task.init_checkpoint.",
        )
    step = saved.step if saved else 0
    resume = step if not training or _has_run(model_dir) else None
    with strategy.scope():
        task = task_factory.get_task(
            params.task,
            logging_dir=model_dir,
            policy=policy_of(params.runtime),
            first_step=step if training else 0,
        )
        model = task.build_model()
        optimizer = task.create_optimizer(params.trainer.optimizer_config, params.runtime)
        record = None
        if chief:
            described = description(params, settings, task.config.digest)
            record = RunFolder(folder, described | {"command": command}, resume)
        trainer = Trainer(
            params,
            task,
            model=model,
            optimizer=optimizer,
            train=training,
            evaluate="eval" in mode,
            record=record,
            progress=progress if chief else None,
            restore_from=saved.prefix if saved and mode != "continuous_eval" else None,
        )
    scores: dict[str, float] = {}

    def remember(output: dict[str, Any]) -> None:
        scores.update(output)

    # Orbit prints every value of every loop; `progress` is told them, too.
    with (
        contextlib.closing(record) if record else contextlib.nullcontext(),
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        _explained(model_dir),
    ):
        train_lib.run_experiment(
            distribution_strategy=strategy,
            task=task,
            mode=mode,
            params=params,
            model_dir=model_dir,
            trainer=trainer,
            controller_cls=Controller,
            eval_actions=[remember],
        )
    return scores


@contextlib.contextmanager
def _explained(model_dir: str) -> Iterator[None]:
    """Raises InputError for a full disk, and for what a reader of data found inside TensorFlow."""
    try:
        yield
    except tf.errors.OpError as error:
        text = error.message
        if "No space left on device" in text:
            for torn in tf.io.gfile.glob(tf.io.gfile.join(model_dir, "ckpt-*_temp")):
                tf.io.gfile.rmtree(torn)
            raise InputError(
                f"the disk of --model_dir {model_dir} is full",
                re.sub(r"\{\{.*?\}\}\s*", "", text.splitlines()[0])[:300],
                "Free some space; the same command continues from the last checkpoint.",
            ) from None
        found = re.search(r"InputError: (.+?)(?:\nTraceback|\n\n|\Z)", text, re.S)
        if not found:
            raise
        raise InputError(*(line.strip() for line in found.group(1).splitlines())) from None


def description(params: Experiment, settings: RunSettings, model_sha256: str) -> dict[str, Any]:
    """What `run.json` says of a run (`maskformer.runs.run_record`), and all of its settings."""
    path = params.task.train_data.input_path or params.task.validation_data.input_path
    return {
        "side": "tf",
        "settings": settings.to_dict(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "data_sha256": RecordFolder(path).manifest.get("data_sha256"),
        "checkpoint_sha256": _checkpoint_sha256(params.task.init_checkpoint),
        "git_commit": git_state(Path(__file__).parent)["commit"],
        "model_sha256": model_sha256,
        "replicas": tf.distribute.get_strategy().num_replicas_in_sync,
        "experiment": params.as_dict(),
    }


def _checkpoint_sha256(path: str) -> str | None:
    """One hash over the files of an initial checkpoint, None without one."""
    if not path:
        return None
    prefix = tf.train.latest_checkpoint(path) if tf.io.gfile.isdir(path) else path
    digest = hashlib.sha256()
    for name in sorted(tf.io.gfile.glob(f"{prefix}.*")):
        with tf.io.gfile.GFile(name, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _has_run(model_dir: str) -> bool:
    return tf.io.gfile.exists(tf.io.gfile.join(model_dir, DESCRIPTION))


def _check_same_run(model_dir: str, settings: RunSettings) -> None:
    """Raises InputError where `model_dir` holds a run of other settings."""
    if not _has_run(model_dir):
        return
    name = tf.io.gfile.join(model_dir, DESCRIPTION)
    with tf.io.gfile.GFile(name, "rb") as file:
        before = parse_json(file.read(bounds.SETTINGS_BYTES), name)
    check_resumable(RunSettings.from_dict(before["settings"]), settings)


def _check(params: Experiment, training: bool, evaluating: bool) -> None:
    """Raises InputError for settings that this project's loop does not have."""
    trainer, runtime = params.trainer, params.runtime
    if trainer.train_tf_while_loop or trainer.eval_tf_function:
        raise InputError(
            "trainer.train_tf_while_loop or trainer.eval_tf_function is true",
            "batches come in several shapes, and predictions are finished on the host",
            "Leave both false.",
        )
    if runtime.distribution_strategy not in STRATEGIES:
        raise InputError(
            f"runtime.distribution_strategy is {runtime.distribution_strategy!r}",
            f"expected: one of {', '.join(STRATEGIES)}",
        )
    if runtime.enable_xla and "mirrored" in runtime.distribution_strategy:
        raise InputError(
            f"runtime.enable_xla is true with {runtime.distribution_strategy}",
            "replicas reduce in the middle of a step, where a compiled program cannot stop",
            "Leave it false, or use one_device; a TPU compiles without it.",
        )
    tpu = runtime.distribution_strategy == "tpu"
    if tpu and evaluating and not params.task.validation_data.buckets:
        raise InputError(
            "task.validation_data.buckets is empty",
            "on a TPU every shape is a program that is compiled",
            "Give shapes that hold the test size, such as 800x1344 and 1344x800.",
        )
    if training and not params.task.train_data.input_path:
        raise InputError(
            "task.train_data.input_path is empty",
            "expected: the folder of a split of records",
            "Write records with `parity data tfrecord SRC OUT`.",
        )


def configure_runtime(runtime: RuntimeConfig) -> None:
    """Threads, logical devices and determinism; must come before TensorFlow's first operation.

    Raises InputError where it comes too late.
    """
    try:
        if runtime.threads:
            tf.config.threading.set_intra_op_parallelism_threads(runtime.threads)
            tf.config.threading.set_inter_op_parallelism_threads(runtime.threads)
        if runtime.logical_cpus > 1:
            tf.config.set_logical_device_configuration(
                tf.config.list_physical_devices("CPU")[0],
                [tf.config.LogicalDeviceConfiguration()] * runtime.logical_cpus,
            )
    except RuntimeError as error:
        raise InputError(
            "runtime.threads or runtime.logical_cpus comes too late",
            " ".join(str(error).split())[:200],
            "Start a process of its own for this run.",
        ) from None
    tf.config.experimental.enable_tensor_float_32_execution(False)
    if runtime.deterministic:
        tf.config.experimental.enable_op_determinism()


def open_strategy(runtime: RuntimeConfig) -> tf.distribute.Strategy:
    """The strategy that the settings name. Raises InputError for devices that are not there."""
    name = runtime.distribution_strategy
    try:
        if name == "mirrored" and runtime.num_gpus == 0 and runtime.logical_cpus > 1:
            return tf.distribute.MirroredStrategy(
                [f"CPU:{number}" for number in range(runtime.logical_cpus)]
            )
        if name == "multi_worker_mirrored":
            replicas.join(runtime.worker_hosts, runtime.task_index)
        return distribute_utils.get_distribution_strategy(
            distribution_strategy=name,
            num_gpus=runtime.num_gpus,
            all_reduce_alg=runtime.all_reduce_alg,
            num_packs=runtime.num_packs,
            tpu_address=runtime.tpu,
        )
    except (tf.errors.OpError, OSError, ImportError, ValueError, RuntimeError, KeyError) as error:
        what = f"the TPU {runtime.tpu!r}" if name == "tpu" else f"the strategy {name!r}"
        raise InputError(
            f"{what} cannot be opened",
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            "Check the name; docs/tpu.md says how a TPU is reached."
            if name == "tpu"
            else "Check runtime.num_gpus, runtime.worker_hosts and runtime.task_index.",
        ) from None


def _print_row(total: int) -> Progress:
    """Prints one line per row, with the time that is left."""
    clock = {"begun": time.perf_counter(), "step": None}
    console = sys.stdout  # `run` redirects it

    def show(step: int, split: str, values: Mapping[str, float]) -> None:
        if split == "eval":
            text = ", ".join(f"{name} {value:.2f}" for name, value in values.items())
            print(f"step {step}: {text}", file=console, flush=True)
            return
        if clock["step"] is None:
            clock.update(begun=time.perf_counter(), step=step)
        done = step - clock["step"]
        left = (time.perf_counter() - clock["begun"]) / done * (total - step) if done else None
        print(
            f"step {step} of {total}: loss {values['loss']:.3f}, "
            f"{values['examples_per_second']:.1f} images/s, "
            f"{100 * values['data_wait_share']:.0f} % of the time waiting for data"
            + (f", {left / 60:.1f} min left" if left is not None else ""),
            file=console,
            flush=True,
        )

    return show


def main(_: list[str]) -> None:
    """Runs what the flags say; exits with 2 and three lines for a user's mistake."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    tf.get_logger().setLevel("WARNING")
    try:
        params = parse(flags.FLAGS)
        run(
            params,
            flags.FLAGS.mode,
            flags.FLAGS.model_dir,
            _print_row(params.trainer.train_steps),
            flags.FLAGS.command or shlex.join(["python", "-m", "tf_impl.train", *sys.argv[1:]]),
        )
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    model_garden_flags.define_flags()
    flags.adopt_module_key_flags(model_garden_flags)
    flags.DEFINE_string("command", None, "What runs this again, for the record.")
    flags.mark_flags_as_required(["experiment", "mode", "model_dir"])
    app.run(main)
