"""A SavedModel that takes a photograph of any size and returns segments; and StableHLO programs.

Example:

  python -m tf_impl.export --experiment=maskformer_scenes_tiny --model_dir=runs/tf \\
      --export_dir=runs/saved_model

`--model_dir` is a run's folder, a folder of `parity convert --to tf`, or a checkpoint's prefix;
`--config_file` and `--params_override` are those of the run.
"""

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tensorflow as tf
import tf_keras
from absl import app, flags, logging
from official.common import flags as model_garden_flags

from maskformer.data.images import Size
from maskformer.inference.prediction import resizes_before_combining
from maskformer.model.config import ModelConfig
from maskformer.model.inputs import InputConfig
from parity.errors import InputError
from parity.files import replacing, temporary
from tf_impl import checkpointing
from tf_impl.inference import infer
from tf_impl.model_garden.experiments import inputs_of, model_of
from tf_impl.model_garden.task import MaskFormerTask
from tf_impl.tpu.lowering import Program, Shapes, lower_forward, lower_train_step

SIDE_MULTIPLE = 32


def serving_shapes(config: ModelConfig, inputs: InputConfig) -> tuple[Size, ...]:
    """The (height, width) that photographs are padded to: every resized one fits the last two.

    The short side is the test size; the long one 1.5 times as much, or the largest there is.
    """
    step = max(SIDE_MULTIPLE, config.size_divisibility)
    short, long = (-(-side // step) * step for side in (inputs.min_size_test, inputs.max_size_test))
    middle = min(-(-int(1.5 * short) // step) * step, long)
    shapes = ((short, middle), (middle, short), (short, long), (long, short))
    return tuple(dict.fromkeys(shapes))


class Serving(tf.Module):
    """A model with its resizing and post-processing, for photographs of any size.

    A photograph is resized to the test size, padded to the first of `shapes` that it fits, and the
    results are made at its own size. Padding takes part in attention: the results are those of
    `tf_impl.inference.predict` for the same padded size.
    """

    def __init__(
        self, model: tf_keras.Model, inputs: InputConfig, shapes: Sequence[Size] | None = None
    ) -> None:
        super().__init__()
        self.parameters = list(model.variables)
        # Behind a function, or Keras would save its layers too, which have static shapes.
        self._model = lambda: model
        self.inputs = inputs
        self.shapes = tuple(shapes or serving_shapes(model.config, inputs))

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8, "image")])
    def serve(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """Results for an RGB photograph uint8 [H,W,3].

        Panoptic models: `panoptic_map` int32 [H,W], ids from 1, 0 where there is no segment, and of
        the N segments in the order of their ids `segment_id`, `category_id` (the model's class)
        int32 [N], `is_thing` bool [N] and `score` float32 [N]. Others: `semantic_map` int32 [H,W].
        """
        config = self._model().config
        size = tf.shape(image)[:2]
        scaled = resize(image, _test_size(size, self.inputs))
        branches = [lambda shape=shape: self._results(scaled, size, shape) for shape in self.shapes]
        found = tf.switch_case(self._first_fitting(tf.shape(scaled)[:2]), branches)
        if not config.inference.panoptic_on:
            return {"semantic_map": found["labels"][0]}
        decisions = {name: found[f"query_{name}"][0] for name in DECISIONS}
        return merge_queries(decisions, config)

    def _first_fitting(self, size: tf.Tensor) -> tf.Tensor:
        fits = tf.reduce_all(size[None] <= tf.constant(self.shapes), axis=1)
        return tf.argmax(fits, output_type=tf.int32)

    def _results(self, scaled: tf.Tensor, size: tf.Tensor, padded: Size) -> dict[str, tf.Tensor]:
        """Fixed decisions at the photograph's size, by way of a model input of shape `padded`."""
        model = self._model()
        config = model.config
        missing = tf.constant(padded) - tf.shape(scaled)[:2]
        image = tf.pad(scaled, [[0, missing[0]], [0, missing[1]], [0, 0]])
        image = tf.ensure_shape(image, [*padded, 3])
        valid = tf.shape(scaled)[:2]
        outputs = model(tf.cast(image, "float32")[None], sizes=valid[None], training=False)
        kept = {
            key: tf.cast(value, tf.float32)
            for key, value in outputs.items()
            if key != "aux_outputs"
        }
        grid = next(iter(kept.values())).shape[-2:] if config.is_per_pixel else None
        plan = _resize_plan(config, grid or kept["pred_masks"].shape[-2:], padded, valid, size)
        results = ("panoptic",) if config.inference.panoptic_on else ("labels",)
        return infer(kept, plan, config, results, (size[0], size[1]))


DECISIONS = ("score", "label", "keep", "owner", "area", "full_area")


def merge_queries(decisions: dict[str, tf.Tensor], config: ModelConfig) -> dict[str, tf.Tensor]:
    """Turns queries into segments as `maskformer.inference.prediction.merge_queries`, in the graph.

    `decisions` are the fields of `QueryDecisions`. Returns the results of `Serving.serve`.
    """
    inference = config.inference
    label, area, full = decisions["label"], decisions["area"], decisions["full_area"]
    overlap = tf.cast(area, tf.float64) / tf.cast(tf.maximum(full, 1), tf.float64)
    kept = decisions["keep"] & (area > 0) & (full > 0) & (overlap >= inference.overlap_threshold)
    things = tf.constant([c in inference.thing_ids for c in range(config.num_classes + 1)])
    is_thing = tf.gather(things, label)
    query = tf.range(tf.size(label))
    # The first kept query of a stuff class owns the segment of all of them.
    same = kept[None] & (label[:, None] == label[None])
    owner = tf.where(is_thing, query, tf.argmax(same, axis=1, output_type=tf.int32))
    starts = kept & (owner == query)
    number = tf.cumsum(tf.cast(starts, tf.int32))
    ids = tf.where(kept, tf.gather(number, owner), 0)
    ids = tf.concat([ids, [0]], axis=0)  # the last is the owner -1: no query
    pixels = decisions["owner"]
    first = tf.where(starts)[:, 0]
    return {
        "panoptic_map": tf.gather(ids, tf.where(pixels < 0, tf.size(label), pixels)),
        "segment_id": tf.gather(number, first),
        "category_id": tf.gather(label, first),
        "is_thing": tf.gather(is_thing, first),
        "score": tf.gather(decisions["score"], first),
    }


def _test_size(size: tf.Tensor, inputs: InputConfig) -> tf.Tensor:
    """`maskformer.data.augmentation.resized_shape` in the graph: the same operations in float64."""
    sides = tf.cast(size, tf.float64)
    short = tf.constant(inputs.min_size_test * 1.0, tf.float64)
    scaled = short / tf.reduce_min(sides) * sides
    height = tf.where(sides[0] < sides[1], short, scaled[0])
    width = tf.where(sides[0] < sides[1], scaled[1], short)
    longest = tf.maximum(height, width)
    limit = tf.constant(inputs.max_size_test * 1.0, tf.float64)
    scale = tf.where(longest > limit, limit / longest, tf.ones_like(longest))
    return tf.cast(tf.stack([height, width]) * scale + 0.5, tf.int32)


def resize(image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Pillow's bilinear resize within one level: antialiased where it shrinks, rounded half up.

    Args: image uint8 [H,W,3]; size int32 [2]. Returns uint8 [H',W',3].
    """
    scale = tf.cast(size, tf.float32) / tf.cast(tf.shape(image)[:2], tf.float32)
    resized = tf.raw_ops.ScaleAndTranslate(
        images=image[None],
        size=size,
        scale=scale,
        translation=tf.zeros(2),
        kernel_type="triangle",
        antialias=True,
    )
    return tf.cast(resized[0] + 0.5, tf.uint8)


def _resize_plan(
    config: ModelConfig, grid: Size, padded: Size, valid: tf.Tensor, size: tf.Tensor
) -> dict[str, tf.Tensor]:
    """`tf_impl.inference.resize_plan` of one photograph whose sizes are tensors."""

    def onto_photograph(axis: int, before: tf.Tensor) -> tf.Tensor:
        return _bilinear(size[axis], valid[axis]) @ before[: valid[axis]]

    up = [_bilinear(tf.constant(padded[axis]), tf.constant(grid[axis])) for axis in (0, 1)]
    whole = grid if config.is_per_pixel else padded
    if config.is_per_pixel or not resizes_before_combining(config):
        classes = [onto_photograph(axis, tf.eye(whole[axis], dtype=tf.float64)) for axis in (0, 1)]
        found = {"class_rows": classes[0], "class_columns": classes[1]}
        if not config.is_per_pixel:
            found |= {"mask_rows": up[0], "mask_columns": up[1]}
    else:
        masks = [onto_photograph(axis, up[axis]) for axis in (0, 1)]
        found = {"mask_rows": masks[0], "mask_columns": masks[1]}
    plan = {name: tf.cast(matrix, tf.float32)[None] for name, matrix in found.items()}
    return plan | {"sizes": size[None]}


def _bilinear(out_size: tf.Tensor, in_size: tf.Tensor) -> tf.Tensor:
    """`tf_impl.layers.bilinear_matrix` of sizes that are tensors: float64 [out,in]."""
    scale = tf.cast(in_size, tf.float64) / tf.cast(out_size, tf.float64)
    source = (tf.cast(tf.range(out_size), tf.float64) + 0.5) * scale - 0.5
    source = tf.maximum(source, 0.0)
    low = tf.minimum(tf.cast(tf.floor(source), tf.int32), in_size - 1)
    high = tf.minimum(low + 1, in_size - 1)
    part = (source - tf.cast(low, tf.float64))[:, None]
    one_hot = (tf.one_hot(index, in_size, dtype=tf.float64) for index in (low, high))
    return next(one_hot) * (1.0 - part) + next(one_hot) * part


def save(serving: Serving, folder: Path) -> None:
    """Writes a SavedModel with the signature `serving_default`; all of it or nothing."""
    with temporary(folder, True) as partial:
        tf.saved_model.save(serving, str(partial), signatures={"serving_default": serving.serve})
        os.replace(partial, folder)


def stablehlo(program: Program) -> tuple[bytes, str]:
    """The StableHLO module of a lowered program as MLIR bytecode, and its entry's types as text.

    The entry takes the function's tensors, then the variables it reads or writes. Raises InputError
    where JAX is not installed, and for shapes or calls that a device cannot have.
    """
    if find_spec("jax") is None:
        raise InputError(
            "StableHLO cannot be written",
            "jax is not installed; its jaxlib has the converter",
            "Install it: pip install 'maskformer-replication[tpu]'",
        )
    from jax._src.interpreters import mlir

    from tf_impl.tpu.compiler import RefusedError, stable_module

    try:
        with mlir.make_ir_context():
            module = stable_module(program.hlo)
            types = next(
                str(operation.attributes["function_type"])
                for operation in module.body.operations
                if str(operation.attributes["sym_name"]) == '"main"'
            )
            return mlir.module_to_bytecode(module), types
    except RefusedError as refused:
        raise InputError(f"the program is no StableHLO: {refused}", refused.kind) from None


def save_stablehlo(
    folder: Path, model: tf_keras.Model, optimizer: tf_keras.optimizers.Optimizer, shapes: Shapes
) -> dict[str, Any]:
    """Writes `inference.mlirbc`, `train_step.mlirbc` and `stablehlo.json`; returns the last.

    The programs are those of `tf_impl.tpu.lowering` at the static `shapes`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    described: dict[str, Any] = {"config": model.config.name, **dataclasses.asdict(shapes)}
    programs = {
        "inference": lambda: lower_forward(model, shapes),
        "train_step": lambda: lower_train_step(model, optimizer, shapes),
    }
    for name, lowered in programs.items():
        code, types = stablehlo(lowered())
        with replacing(folder / f"{name}.mlirbc") as temporary:
            temporary.write_bytes(code)
        described[name] = {"sha256": hashlib.sha256(code).hexdigest(), "types": types}
    with replacing(folder / "stablehlo.json") as temporary:
        temporary.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    return described


def _shapes(text: str, capacity: int) -> Shapes:
    """From "BATCHxHEIGHTxWIDTH"; raises InputError for anything else."""
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) for part in parts):
        raise InputError(
            f"--stablehlo is {text!r}", "expected BATCHxHEIGHTxWIDTH", "for example 1x512x512"
        )
    return Shapes(*map(int, parts), capacity)


def main(_: list[str]) -> None:
    """Exports what the flags say; exits with 2 and three lines for a user's mistake."""
    from tf_impl.train import parse

    logging.set_verbosity(logging.WARNING)
    try:
        params = parse(flags.FLAGS)
        model_of(params.task)
        params.task.init_checkpoint = _checkpoint(flags.FLAGS.model_dir)
        task = MaskFormerTask(params.task)
        model = task.build_model()
        task.initialize(model)
        folder = Path(flags.FLAGS.export_dir)
        if folder.exists():
            raise InputError(f"--export_dir {folder} exists", "it is not replaced")
        wanted = flags.FLAGS.stablehlo
        shapes = _shapes(wanted, params.task.train_data.capacity) if wanted else None
        serving = Serving(model, inputs_of(params.task))
        save(serving, folder)
        print(f"{folder}: {', '.join(f'{h}x{w}' for h, w in serving.shapes)}")
        if shapes:
            optimizer = task.create_optimizer(params.trainer.optimizer_config)
            save_stablehlo(folder / "stablehlo", model, optimizer, shapes)
            print(f"{folder / 'stablehlo'}: inference and train step of {wanted}")
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def _checkpoint(path: str) -> str:
    """The newest usable checkpoint of a run, or `path` as it is."""
    saved = checkpointing.newest_usable(path) if tf.io.gfile.isdir(path) else None
    return saved.prefix if saved else path


if __name__ == "__main__":
    model_garden_flags.define_flags()
    flags.adopt_module_key_flags(model_garden_flags)
    flags.DEFINE_string("export_dir", None, "New folder that receives the SavedModel.")
    flags.DEFINE_string(
        "stablehlo", None, "BATCHxHEIGHTxWIDTH: also write both programs of this shape."
    )
    flags.mark_flags_as_required(["experiment", "model_dir", "export_dir"])
    app.run(main)
