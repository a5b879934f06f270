"""The exported training step and forward pass on a GPU, under JAX, beside the torch reference.

    python -m benchmarks.gpu_step --config coco_r50 --size 640x640 --batch 2 --json

The StableHLO is that of `python -m tf_impl.export --stablehlo`; JAX compiles it for the GPU, torch
runs eager and compiled. All start from the same weights and take turns on the same batch, dropout
on. Where no GPU is there it says so, and exits with 0: nothing was measured. `--platform cpu` runs
the same programs on a CPU, to try them.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rounds import Rounds

PROGRAMS = ("train_step", "inference")
WEIGHTS = "seeded:0"


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="coco_r50")
    parser.add_argument("--size", default="640x640", help="HxW in pixels")
    parser.add_argument("--batch", type=int, default=2, help="images")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--platform", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--lower", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def missing_gpu() -> str | None:
    """Why nothing can be measured on a GPU here, or None. Loads JAX and torch."""
    try:
        import jax
    except ImportError:
        return "JAX is not installed"
    import torch

    try:
        seen = jax.devices("gpu")
    except RuntimeError:
        seen = []
    if not seen or not torch.cuda.is_available():
        names = sorted({device.platform for device in jax.devices()})
        return (
            f"no GPU that both see: torch sees {torch.cuda.device_count()}, "
            f"JAX has the platforms {', '.join(names)}"
        )
    return None


def example(arguments: argparse.Namespace) -> tuple[Any, ...]:
    """Config, images uint8 [N,H,W,3], sizes, and what is to be learnt, equal on both sides."""
    from maskformer.data.images import batch_images, parse_size, synthetic_image
    from maskformer.data.targets import label_map, synthetic_targets
    from maskformer.model import zoo

    config = zoo.get(arguments.config).model
    height, width = parse_size(arguments.size)
    images, sizes = batch_images(
        [synthetic_image(height, width, index) for index in range(arguments.batch)], config
    )
    targets: Any = synthetic_targets(config, sizes, images.shape[1:3])
    if config.is_per_pixel:
        targets = label_map(targets, config.ignore_value)
    return config, images, sizes, targets


def lower(arguments: argparse.Namespace, folder: Path) -> None:
    """Writes both programs as StableHLO, and the tensors that they are called with, in order."""
    from maskformer.model import zoo
    from replication.sides.tf_side import build_port, port_batch
    from replication.sides.weights import load_weights

    config, images, sizes, targets = example(arguments)
    model = build_port(config, load_weights(WEIGHTS, config), "float32")
    batch = port_batch(config, images, sizes, targets, "float32")

    import tensorflow as tf

    from tf_impl import export
    from tf_impl.optimizer import build_optimizer
    from tf_impl.tpu.lowering import Shapes, lower_forward, lower_train_step

    optimizer = build_optimizer(model, zoo.get(arguments.config).solver, "float32")
    wanted = [batch.targets] if config.is_per_pixel else list(batch.targets)
    most = 1 if config.is_per_pixel else batch.targets.classes.shape[1]
    shapes = Shapes(arguments.batch, *images.shape[1:3], most)
    given = [batch.images, batch.sizes]
    for name, program, tensors in (
        ("train_step", lower_train_step(model, optimizer, shapes), [*given, *wanted]),
        ("inference", lower_forward(model, shapes), given),
    ):
        (folder / f"{name}.mlirbc").write_bytes(export.stablehlo(program)[0])
        specs = shapes.specs(config)
        values = [tf.cast(t, s.dtype).numpy() for t, s in zip(tensors, specs, strict=False)]
        values += [one.numpy() for one in program.captured]
        np.savez(folder / f"{name}.npz", **{f"{i:05d}": value for i, value in enumerate(values)})


class Compiled:
    """A StableHLO program on a device, with its arguments there; a call runs it once.

    Arguments that the program writes in place are replaced by what it wrote, so that a call of the
    training step is the next update.
    """

    def __init__(self, folder: Path, name: str, device: Any) -> None:
        import jax
        from jax._src.interpreters import mlir
        from jax._src.lib import _jax
        from jaxlib import xla_client
        from jaxlib.mlir import ir

        with mlir.make_ir_context():
            module = ir.Module.parse((folder / f"{name}.mlirbc").read_bytes())
            self._aliases = _aliases(module)
            self._program = device.client.compile_and_load(
                module, _jax.DeviceList((device,)), xla_client.CompileOptions()
            )
        with np.load(folder / f"{name}.npz") as arrays:
            self._arguments = [jax.device_put(arrays[key], device) for key in sorted(arrays)]

    def __call__(self) -> list[Any]:
        """The program's results, when they are there."""
        import jax

        found = self._program.execute_sharded(self._arguments)
        results = [one[0] for one in found.disassemble_into_single_device_arrays()]
        for argument, result in self._aliases.items():
            self._arguments[argument] = results[result]
        jax.block_until_ready(results)
        return results


def _aliases(module: Any) -> dict[int, int]:
    """The results that take the place of arguments, by argument."""
    name = "mhlo.input_output_alias"
    if name not in module.operation.attributes:
        return {}
    text = str(module.operation.attributes[name])
    pairs = re.findall(r"parameter_number = (\d+).*?output_index = array<i64: (\d+)>", text)
    return {int(argument): int(result) for argument, result in pairs}


def loss_index(config: Any) -> int:
    """Where the weighted sum of the losses is in the results of the training step.

    They are the losses of every output, then their sum, the gradient's norm and the matching.
    """
    outputs = config.predictor.dec_layers if config.predictor.deep_supervision else 1
    if config.is_per_pixel:
        return outputs
    return 3 * outputs


def exported(
    arguments: argparse.Namespace, folder: Path
) -> dict[str, dict[str, Callable[[], float]]]:
    """The exported programs under JAX; a training step returns its loss, a forward pass 0."""
    import jax

    jax.config.update("jax_enable_x64", True)  # or the step's counter would become an int32
    device = jax.devices(arguments.platform)[0]
    config = example(arguments)[0]
    where = loss_index(config)
    train, forward = (Compiled(folder, name, device) for name in PROGRAMS)

    def infer() -> float:
        forward()
        return 0.0

    return {"train_step": {"jax": lambda: float(train()[where])}, "inference": {"jax": infer}}


def reference(arguments: argparse.Namespace) -> dict[str, dict[str, Callable[[], float]]]:
    """The torch reference on the same device, eager and compiled."""
    import torch

    from maskformer.model import zoo
    from replication.sides.torch_side import build_reference, reference_batch
    from replication.sides.weights import load_weights
    from torch_reference.optimizer import build_optimizer
    from torch_reference.schedule import SolverSchedule
    from torch_reference.train_step import Batch, train_step

    device = "cuda" if arguments.platform == "gpu" else "cpu"
    # The exported program asks for full precision, too.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    config, images, sizes, targets = example(arguments)
    batch = reference_batch(config, images, sizes, targets, "float32")
    moved = _moved(batch.targets, device)
    batch = Batch(batch.images.to(device), batch.sizes.to(device), moved)
    found: dict[str, dict[str, Callable[[], float]]] = {name: {} for name in PROGRAMS}
    kinds = ("torch eager",) if arguments.no_compile else ("torch eager", "torch compile")
    for kind in kinds:
        model = build_reference(config, load_weights(WEIGHTS, config), "float32")
        model = model.to(device).train()
        solver = zoo.get(arguments.config).solver
        optimizer = build_optimizer(model, solver)
        schedule = SolverSchedule(optimizer, solver)
        run: Any = torch.compile(model) if kind == "torch compile" else model

        def step(run: Any = run, optimizer: Any = optimizer, schedule: Any = schedule) -> float:
            run.train()
            loss = float(train_step(run, optimizer, batch).total)
            schedule.step()
            return loss

        def infer(run: Any = run) -> float:
            run.eval()
            with torch.no_grad():
                run(batch.images, sizes=batch.sizes)
            if device == "cuda":
                torch.cuda.synchronize()
            return 0.0

        found["train_step"][kind], found["inference"][kind] = step, infer
    return found


def _moved(value: Any, device: str) -> Any:
    if isinstance(value, list):
        return [_moved(one, device) for one in value]
    if isinstance(value, dict):
        return {name: _moved(one, device) for name, one in value.items()}
    return value.to(device)


def measure(
    runs: dict[str, dict[str, Callable[[], float]]], rounds: int
) -> dict[str, dict[str, Any]]:
    """Seconds of each contestant by program, in turns after a first, compiling call, and losses."""
    found: dict[str, dict[str, Any]] = {}
    kept = Rounds("gpu_step")
    for program, contestants in runs.items():
        rows: dict[str, Any] = {}
        for name, run in contestants.items():
            start = time.perf_counter()
            try:
                loss = run()
            except Exception as error:  # a compiler that cannot do it is a result
                rows[name] = {"failed": (str(error).strip().splitlines() or ["unknown"])[0][:300]}
                continue
            rows[name] = {"first_seconds": time.perf_counter() - start, "all_seconds": []}
            rows[name]["losses"] = [loss]
            print(f"{program}, {name}: first call done", file=sys.stderr, flush=True)
        working = [name for name in contestants if "failed" not in rows[name]]
        for _ in range(rounds):
            for name in working:
                start = time.perf_counter()
                rows[name]["losses"].append(contestants[name]())
                seconds = kept.add(program, name, time.perf_counter() - start)
                rows[name]["all_seconds"].append(seconds)
        for name in working:
            rows[name]["median_seconds"] = statistics.median(rows[name]["all_seconds"])
        found[program] = rows
    return found


def main() -> None:
    """Prints medians, or in one line why nothing was measured."""
    arguments = parse_arguments()
    if arguments.lower:
        lower(arguments, arguments.lower)
        return
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs memory, too
    plugins = any(find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))
    os.environ.setdefault("JAX_PLATFORMS", "cuda,cpu" if plugins else "cpu")  # and no TPU
    if arguments.platform == "gpu" and (why := missing_gpu()) is not None:
        if arguments.json:
            print(json.dumps({"measured": False, "reason": why}))
        else:
            print(f"nothing was measured: {why}")
        return
    with tempfile.TemporaryDirectory(prefix="gpu-step-") as folder:
        print("lowering both programs", file=sys.stderr, flush=True)
        # TensorFlow only lowers, in a process of its own that sees no GPU.
        subprocess.run(
            [sys.executable, "-m", "benchmarks.gpu_step", *sys.argv[1:], "--lower", folder],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
            check=True,
        )
        runs = exported(arguments, Path(folder))
    for program, contestants in reference(arguments).items():
        runs[program] |= contestants
    result = {
        "measured": True,
        "platform": arguments.platform,
        "device": _device_name(arguments.platform),
        "config": arguments.config,
        "size": arguments.size,
        "batch": arguments.batch,
        "rounds": arguments.rounds,
        "programs": measure(runs, arguments.rounds),
    }
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{arguments.config}, {arguments.size}, batch {arguments.batch}, {result['device']}")
    for program, rows in result["programs"].items():
        for name, row in rows.items():
            if "failed" in row:
                print(f"  {program:10} {name:14} did not run: {row['failed']}")
                continue
            losses = [row["losses"][0], row["losses"][-1]]
            loss = f", loss {losses[0]:.5g} to {losses[1]:.5g}" if any(losses) else ""
            print(
                f"  {program:10} {name:14} {1e3 * row['median_seconds']:9.2f} ms "
                f"({1e3 * min(row['all_seconds']):.2f} to {1e3 * max(row['all_seconds']):.2f})"
                f"{loss}"
            )


def _device_name(platform: str) -> str:
    import torch

    return torch.cuda.get_device_name() if platform == "gpu" else "CPU"


if __name__ == "__main__":
    main()
