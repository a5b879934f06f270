"""Forward pass, TensorFlow beside PyTorch: the same weights, image and thread count, interleaved.

    python -m benchmarks.forward [--config coco_r50] [--size 480x640] [--rounds 7] [--json]

Also measures a full audit against the plain forwards that it needs.
"""

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.rounds import Rounds


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="coco_r50")
    parser.add_argument("--size", default="480x640", help="HxW in pixels")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2, help="of each framework")
    parser.add_argument("--no-audit", action="store_true", help="leave out the audit")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


Runs = dict[str, Callable[[], Any]]
"""A function for each way of running a model; each returns when the result is there."""


def contestants(config: Any, weights: Any, inputs: tuple[Any, Any]) -> tuple[Runs, Runs]:
    """The forward passes, and the same with post-processing: predictions at the images' sizes."""
    import torch

    from replication.sides.tf_side import build_port, port_inputs
    from replication.sides.torch_side import build_reference, reference_inputs

    batch, sizes = inputs
    reference = build_reference(config, weights, "float32")
    arguments = [torch.from_numpy(a) for a in reference_inputs(batch, sizes, "float32").values()]
    compiled = torch.compile(reference)

    from torch_reference import inference

    padded, valid = tuple(batch.shape[1:3]), [tuple(map(int, size)) for size in sizes]

    def run_torch(model: Any) -> Callable[[], Any]:
        def run() -> Any:
            with torch.inference_mode():
                return model(*arguments)

        return run

    def predict_torch(run: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: inference.predict(run(), config, padded, valid)

    port = build_port(config, weights, "float32")

    import tensorflow as tf

    from tf_impl.inference import predict

    constants = {k: tf.constant(v) for k, v in port_inputs(batch, sizes, "float32").items()}

    def run_tf(jit_compile: bool) -> Callable[[], Any]:
        function = tf.function(
            lambda images, sizes: port(images, sizes), autograph=False, jit_compile=jit_compile
        )
        return lambda: function(**constants)

    def read_tf(run: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: run()["pred_masks"].numpy()

    def predict_tf(run: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: predict(run(), config, padded, valid)

    torch_runs = {"torch eager": run_torch(reference), "torch compile": run_torch(compiled)}
    tf_runs = {"tf graph": run_tf(False), "tf xla": run_tf(True)}
    return (
        torch_runs | {name: read_tf(run) for name, run in tf_runs.items()},
        {name: predict_torch(run) for name, run in torch_runs.items()}
        | {name: predict_tf(run) for name, run in tf_runs.items()},
    )


def measure(runs: Runs, rounds: int, kept: Rounds, case: str) -> dict[str, list[float]]:
    """Seconds of each run, one of each in every round; the first, compiling call is not counted."""
    for name, run in runs.items():
        start = time.perf_counter()
        run()
        kept.add(f"{case}, first call", name, time.perf_counter() - start)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(kept.add(case, name, time.perf_counter() - start))
    return seconds


def compared(case: str, runs: Runs, rounds: int, kept: Rounds) -> dict[str, Any]:
    """The medians of a case, and their ratios to the faster of torch's two ways."""
    seconds = measure(runs, rounds, kept, case)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    best = min(medians["torch eager"], medians["torch compile"])
    return {
        "case": case,
        "median_seconds": medians,
        "ratio_to_torch_best": {name: value / best for name, value in medians.items()},
        "all_seconds": seconds,
    }


def measure_audit(config: Any, weights: Any, inputs: tuple[Any, Any]) -> dict[str, float]:
    """Seconds of the captures and comparisons of a full audit, and of the same runs without taps.

    Compilation is in neither: every function has run once before.
    """
    from parity.frameworks.torch import capture as capture_torch
    from parity.pairing import Comparison
    from replication.sides.tf_side import PORT_AXES, build_port, port_inputs
    from replication.sides.torch_side import REFERENCE_AXES, build_reference, reference_inputs

    batch, sizes = inputs
    plain, full = 0.0, 0.0

    def timed(run: Callable[..., Any], *given: Any) -> tuple[float, Any]:
        start = time.perf_counter()
        result = run(*given)
        return time.perf_counter() - start, result

    trace = None
    for dtype in ("float64", "float32"):
        model = build_reference(config, weights, dtype)
        recorder = capture_torch.Recorder(model, REFERENCE_AXES, clone=False)
        arguments = reference_inputs(batch, sizes, dtype)
        recorder.forward(arguments)
        seconds, _ = timed(recorder.forward, arguments)
        plain += 3 * seconds  # the run that is traced or compared, and two for the floor
        if trace is None:
            seconds, (_, trace) = timed(recorder, arguments)
        else:
            seconds, _ = timed(recorder, arguments, Comparison(trace))
        full += seconds
        seconds, _ = timed(capture_torch.measure_floors, recorder, arguments, trace)
        full += seconds
        print(f"reference {dtype} done", file=sys.stderr)
    for dtype, executions in (("float64", ("eager",)), ("float32", ("eager", "graph", "xla"))):
        model = build_port(config, weights, dtype)

        from parity.frameworks.tensorflow import capture as capture_tf

        arguments = port_inputs(batch, sizes, dtype)
        for execution in executions:
            recorder = capture_tf.Recorder(model, PORT_AXES, execution)
            recorder.forward(arguments)
            recorder(arguments, lambda tap: None)
            plain += timed(recorder.forward, arguments)[0]
            full += timed(recorder, arguments, Comparison(trace))[0]
            print(f"port {dtype} {execution} done", file=sys.stderr)
    return {"plain": plain, "audit": full, "ratio": full / plain}


def main() -> None:
    """Prints medians and ratios to the faster of torch's two ways, also with predictions."""
    arguments = parse_arguments()
    warnings.simplefilter("ignore")
    import torch

    from maskformer.data.images import batch_images, parse_size, synthetic_image
    from maskformer.model import zoo
    from replication.commands.audit import set_threads
    from replication.sides.weights import load_weights

    set_threads(arguments.threads)
    config = zoo.model_config(arguments.config)
    weights = load_weights("seeded:0", config)
    inputs = batch_images([synthetic_image(*parse_size(arguments.size), 0)], config)
    kept, case = Rounds("forward"), f"{config.name} {arguments.size}"
    cases = zip((case, f"{case}, predictions"), contestants(config, weights, inputs), strict=True)
    result = {
        "config": config.name,
        "size": arguments.size,
        "threads": torch.get_num_threads(),
        "rounds": arguments.rounds,
        "cases": [compared(name, runs, arguments.rounds, kept) for name, runs in cases],
    }
    if not arguments.no_audit:
        result["audit"] = found = measure_audit(config, weights, inputs)
        for name in ("plain", "audit"):
            kept.add(f"{case}, audit", name, found[name])
    if arguments.json:
        print(json.dumps(result))
        return
    print(
        f"{config.name}, {arguments.size}, {result['threads']} threads, {arguments.rounds} rounds"
    )
    for one in result["cases"]:
        print(f" {one['case']}")
        for name, value in one["median_seconds"].items():
            seconds = one["all_seconds"][name]
            spread = f"{np.min(seconds):.3f} to {np.max(seconds):.3f}"
            ratio = one["ratio_to_torch_best"][name]
            print(f"  {name:14} {value:7.3f} s ({spread}), {ratio:.2f}x torch's best")
    if "audit" in result:
        found = result["audit"]
        print(
            f"  full audit {found['audit']:.1f} s, plain forwards {found['plain']:.1f} s: "
            f"{found['ratio']:.2f}x"
        )


if __name__ == "__main__":
    main()
