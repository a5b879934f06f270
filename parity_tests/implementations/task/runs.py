"""Small runs of the Model Garden's task, in processes of their own (`start`, `finish`).

`python -m parity_tests.implementations.task.runs SCENARIO FOLDER [ARGUMENTS]` writes
FOLDER/result.json.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
SIZE = 64
"""Training images are at most this large, in pixels."""


def start(scenario: str, *arguments: object) -> subprocess.Popen:
    """A process of its own: devices, threads and determinism are chosen once in a process."""
    command = [
        sys.executable,
        "-m",
        "parity_tests.implementations.task.runs",
        scenario,
        *map(str, arguments),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(process: subprocess.Popen, folder: Path) -> dict:
    """The result of a scenario that must succeed."""
    return finish_all([process], folder)


def finish_all(processes: list[subprocess.Popen], folder: Path) -> dict:
    """The result of processes that must all succeed; shows all that did not, in their order."""
    outputs = [process.communicate()[0].decode() for process in processes]
    failures = [
        f"process {index} ended with {process.returncode}:\n{output[-3000:]}"
        for index, (process, output) in enumerate(zip(processes, outputs, strict=True))
        if process.returncode
    ]
    assert not failures, "\n".join(failures)
    return json.loads((folder / "result.json").read_text())


def write_data(folder: Path, images: int = 10, size: int = SIZE, seed: int = 0) -> Path:
    """Records of small scenes in `folder`, one folder per split; returns `folder`."""
    from maskformer.data.dataset_layout import find_splits, open_split
    from maskformer.scenes.scenes import write_scenes
    from tf_impl.storage.tfrecord import write_records

    write_scenes(folder / "scenes", images, seed, size=size)
    source = folder / "scenes" / "coco"
    for split in find_splits(source):
        write_records(open_split(source, split), folder / split, split, 1)
    return folder


def overrides(data: Path, steps: int, batch: int = 2, **sections: dict) -> dict:
    """Settings that make `maskformer_scenes_tiny` run in seconds."""
    values = {
        "task": {
            "model": {
                "pixel_decoder": {
                    "conv_dim": 32,
                    "mask_dim": 32,
                    "transformer_enc_layers": 1,
                },
                "predictor": {
                    "hidden_dim": 32,
                    "num_queries": 16,
                    "dim_feedforward": 32,
                    "dropout": 0.1,
                },
            },
            "inputs": {
                "min_sizes_train": [40, 48],
                "max_size_train": SIZE,
                "min_size_test": 48,
                "max_size_test": SIZE,
            },
            "train_data": {
                "input_path": str(data / "train2017"),
                "global_batch_size": batch,
                "buckets": [f"{SIZE}x{SIZE}"],
                "capacity": 16,
                "parallel_calls": 1,
            },
            "validation_data": {"input_path": str(data / "val2017")},
        },
        "trainer": {
            "train_steps": steps,
            "validation_interval": steps,
            "checkpoint_interval": 1,
            "steps_per_loop": 1,
            "summary_interval": 1,
        },
        "runtime": {"threads": 1},
    }
    for name, section in sections.items():
        merge(values[name], section)
    return values


def merge(target: dict, changes: dict) -> None:
    """Writes nested `changes` into `target`."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            merge(target[key], value)
        else:
            target[key] = value


def experiment(values: dict):
    """`maskformer_scenes_tiny` with overrides."""
    import tf_impl  # noqa: F401  (selects tf_keras before TensorFlow is imported)

    from official.core import exp_factory  # isort: skip

    from tf_impl.model_garden import experiments  # noqa: F401  (registers)

    params = exp_factory.get_exp_config("maskformer_scenes_tiny")
    params.override(values)
    return params


def weights_of(model_dir: Path, step: int) -> dict:
    """Every tensor of a checkpoint by key, but its save counter."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(model_dir / f"ckpt-{step}"))
    keys = reader.get_variable_to_shape_map()
    kept = (k for k in keys if "save_counter" not in k and "OBJECT_GRAPH" not in k)
    return {key: reader.get_tensor(key) for key in kept}


def rows_of(model_dir: Path) -> list[dict]:
    """The rows of the record without what depends on the clock and the machine."""
    timed = {"seconds", "examples_per_second", "step_seconds", "data_wait_share", "memory_bytes"}
    lines = (model_dir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in lines]


def differences(one: dict, other: dict) -> list[str]:
    """Keys of tensors that are not equal bit for bit."""
    assert one.keys() == other.keys()
    return [key for key in one if one[key].tobytes() != other[key].tobytes()]


def resume(folder: Path) -> dict:
    """A run of three steps; continued where the newest two checkpoints are damaged; and a fault."""
    import shutil

    from absl import logging

    from tf_impl import train
    from tf_impl.model_garden import task

    data, whole, damaged, wrong = (folder / n for n in ("data", "whole", "damaged", "wrong"))
    write_data(data)
    values = overrides(
        data,
        3,
        trainer={"train_tf_function": False, "max_to_keep": 9},
        runtime={"deterministic": True},
    )
    train.run(experiment(values), "train", str(whole))
    for copied in (damaged, wrong):
        shutil.copytree(whole, copied)

    torn = damaged / "ckpt-3.data-00000-of-00001"
    torn.write_bytes(torn.read_bytes()[:1000])
    flipped = damaged / "ckpt-2.data-00000-of-00001"
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    warnings = []
    logging.get_absl_logger().addFilter(lambda r: warnings.append(r.getMessage()) or True)
    train.run(experiment(values), "train", str(damaged))

    for name in wrong.glob("ckpt-3.*"):
        name.unlink()
    original = task.MaskFormerTask.__init__

    def forgetful(self, *args, first_step=0, **kwargs):
        original(self, *args, first_step=0, **kwargs)

    task.MaskFormerTask.__init__ = forgetful
    train.run(experiment(values), "train", str(wrong))
    expected = weights_of(whole, 3)
    return {
        "tensors": len(expected),
        "steps": [row["step"] for row in rows_of(damaged)],
        "warnings": [text for text in warnings if "damaged" in text],
        "differences": differences(expected, weights_of(damaged, 3)),
        "rows_differ": rows_of(whole) != rows_of(damaged),
        "resumed": json.loads((damaged / "run.json").read_text())["resumed"][0]["step"],
        "differences_of_fault": len(differences(expected, weights_of(wrong, 3))),
    }


def train_steps(folder: Path, model_dir: str, steps: str) -> dict:
    """A deterministic run on the data in `folder`, with a checkpoint every second step."""
    from tf_impl import train

    values = overrides(
        folder / "data",
        int(steps),
        trainer={"checkpoint_interval": 2},
        runtime={"deterministic": True},
    )
    train.run(experiment(values), "train", str(folder / model_dir))
    return {}


def shared(data: Path, steps: int, **changes: dict) -> dict:
    """Settings of a float64 run whose replicas can share a batch and must not differ.

    Images have up to 96 pixels: where two targets of a class both vanish at the masks' size, they
    are equal for the matching, and rounding alone decides which query learns which.
    """
    values = overrides(
        data,
        steps,
        batch=4,
        task={
            "normalisation": "global",
            "init_checkpoint": str(data.parent / "initial"),
            "model": {"predictor": {"dropout": 0.0}},
            "inputs": {"min_sizes_train": [72], "max_size_train": 96},
            "train_data": {"buckets": ["96x96"]},
        },
        trainer={
            "checkpoint_interval": steps,
            "optimizer_config": {
                "learning_rate": {"warmup_poly": {"base_lr": 1e-6, "warmup_iters": 0}}
            },
        },
        runtime={"mixed_precision_dtype": "float64", "logical_cpus": 2, "threads": 0},
    )
    for name, section in changes.items():
        merge(values[name], section)
    return values


MIRRORED = {"runtime": {"distribution_strategy": "mirrored"}}


def together(folder: Path, steps: str) -> dict:
    """One device, then two replicas in this process."""
    from tf_impl import train

    data, count = write_data(folder / "data", images=5, size=96, seed=36), int(steps)
    plain_graphs()
    initial_weights(folder / "initial", shared(data, count))
    for name, changes in (("one", {}), ("mirrored", MIRRORED)):
        train.run(experiment(shared(data, count, **changes)), "train", str(folder / name))
    return {}


def unlike(folder: Path, steps: str) -> dict:
    """Two replicas with the other normalisation, on the data of `together`.

    In a process of its own: TensorFlow numbers the reductions of every strategy from the same
    start, and refuses a number whose shape was another before.
    """
    from tf_impl import train

    plain_graphs()
    values = shared(folder / "data", int(steps), **MIRRORED, task={"normalisation": "ddp_mean"})
    train.run(experiment(values), "train", str(folder / "wrong"))
    return {}


def worker(folder: Path, index: str, hosts: str, steps: str) -> dict:
    """One of the workers at `hosts`, on the data of `together`."""
    from tf_impl import train

    plain_graphs()
    runtime = {
        "distribution_strategy": "multi_worker_mirrored",
        "worker_hosts": hosts,
        "task_index": int(index),
        "logical_cpus": 1,
    }
    values = shared(folder / "data", int(steps), runtime=runtime)
    train.run(experiment(values), "train", str(folder / "workers"))
    return {}


def initial_weights(folder: Path, values: dict) -> None:
    """A checkpoint of random weights: a strategy draws its own, whatever the seed."""
    import tensorflow as tf

    from tf_impl import train
    from tf_impl.model_garden.task import MaskFormerTask

    params = experiment(values)
    train.configure_runtime(params.runtime)
    model = MaskFormerTask(params.task, policy="float64").build_model()
    tf.train.Checkpoint(model=model).save(str(folder / "ckpt"))


def plain_graphs() -> None:
    """Graphs run as they were traced: rewriting them takes longer than a few steps."""
    import tf_impl  # noqa: F401  (selects tf_keras before TensorFlow is imported)

    import tensorflow as tf  # isort: skip

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


SCENARIOS = {f.__name__: f for f in (resume, train_steps, together, unlike, worker)}


if __name__ == "__main__":
    name, target, *arguments = sys.argv[1:]
    result = SCENARIOS[name](Path(target), *arguments)
    (Path(target) / "result.json").write_text(json.dumps(result))
