"""Seconds and memory of conversions, beside plain safetensors load and save of the same bytes.

Every measurement runs in a process of its own, the kinds in turn. Memory is the process's peak
resident set above what it had after its imports; seconds are those of the call alone, on the clock
and of the processors. What a process imports before is measured by itself and is in neither side's
seconds: safetensors for the plain work, PyTorch for a conversion, TensorFlow for one with TF.

    python -m benchmarks.convert --config coco_r50 --config coco_swin_large --repeats 5 --json
"""

import argparse
import importlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.rounds import Rounds

SOURCES = {"safetensors": "in.safetensors", "pickle": "in.pkl", "torch": "in.pth", "tf": "in_tf"}
CASES = (
    ("plain", "safetensors", "safetensors"),
    ("convert", "safetensors", "safetensors"),
    ("convert", "safetensors", "tf"),
    ("convert", "tf", "safetensors"),
    ("convert", "pickle", "tf"),
    ("convert", "pickle", "safetensors"),
    ("convert", "torch", "safetensors"),
    ("convert", "safetensors", "pickle"),
    ("convert", "safetensors", "torch"),
)
"""Kind of work, format read, format written."""


def resident_peak() -> int:
    """This process's highest resident set so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def plain(source: Path, target: Path) -> Callable[[], None]:
    """safetensors' own load and save."""
    from safetensors.numpy import load_file, save_file

    return lambda: save_file(load_file(source), target)


def conversion(config: str, source: Path, target: Path, to: str) -> Callable[[], None]:
    """Our conversion, hashes and receipt included; what it imports lazily is imported before."""
    from maskformer.model import zoo
    from weight_conversion.convert import convert

    importlib.import_module("torch_reference.modeling.maskformer")
    if "tf" in (to, source.name.removeprefix("in_")):
        importlib.import_module("tf_impl")
        importlib.import_module("tensorflow").constant(0)  # the first operation starts its runtime
    model = zoo.model_config(config)
    kind = "torch" if to == "pickle" else to
    return lambda: convert(source, target, kind, model)


def measure(folder: Path, config: str, work: str, read: str, to: str) -> dict[str, float]:
    """Runs one case in this process."""
    suffixes = {"safetensors": ".safetensors", "pickle": ".pkl", "torch": ".pth", "tf": ""}
    source = folder / SOURCES[read]
    target = folder / f"out{suffixes[to]}"
    start = time.perf_counter()
    call = plain(source, target) if work == "plain" else conversion(config, source, target, to)
    imported, before, used = time.perf_counter(), resident_peak(), time.process_time()
    call()
    return {
        "import_seconds": imported - start,
        "seconds": time.perf_counter() - imported,
        "cpu_seconds": time.process_time() - used,
        "bytes": resident_peak() - before,
    }


def prepare(folder: Path, config: str) -> int:
    """Writes the seeded model in every format; returns its size in bytes."""
    from maskformer.model import zoo
    from maskformer.model.seeded import seeded_tensor
    from weight_conversion import safetensors_file
    from weight_conversion.convert import convert
    from weight_conversion.spec import expected

    model = zoo.model_config(config)
    specs = expected(model)
    declared = [(spec.name, spec.shape, spec.dtype) for spec in specs.values()]
    arrays = (
        spec.constant() if spec.constant else seeded_tensor(spec.name, spec.shape, 0)
        for spec in specs.values()
    )
    source = folder / SOURCES["safetensors"]
    with source.open("wb") as file:
        safetensors_file.write(file, declared, arrays)
    for kind, to in (("pickle", "torch"), ("torch", "torch"), ("tf", "tf")):
        convert(source, folder / SOURCES[kind], to, model)
    return source.stat().st_size


def run(config: str, repeats: int, kept: Rounds) -> dict:
    """All cases of one configuration, interleaved."""
    with tempfile.TemporaryDirectory() as name:
        child = [sys.executable, "-m", "benchmarks.convert", "--folder", name, "--config", config]
        made = subprocess.run([*child, "--prepare"], check=True, capture_output=True, text=True)
        size = int(made.stdout.splitlines()[-1])
        found: dict[tuple, list[dict]] = {case: [] for case in CASES}
        rounds = [case for _ in range(repeats) for case in CASES]
        for case in rounds:
            out = subprocess.run(
                [*child, "--case", *case], check=True, capture_output=True, text=True
            )
            found[case].append(json.loads(out.stdout.splitlines()[-1]))
            kept.add(config, "{} {} -> {}".format(*case), found[case][-1]["seconds"])
    rows = [
        {
            "work": work,
            "read": read,
            "written": to,
            **{
                key: statistics.median(one[key] for one in measured)
                for key in ("import_seconds", "seconds", "cpu_seconds")
            },
            "peak_over_file": statistics.median(one["bytes"] for one in measured) / size,
        }
        for (work, read, to), measured in found.items()
    ]
    for row in rows:
        row["times_plain"] = row["seconds"] / rows[0]["seconds"]
        row["cpu_times_plain"] = row["cpu_seconds"] / rows[0]["cpu_seconds"]
    return {"config": config, "file_bytes": size, "repeats": repeats, "cases": rows}


def main() -> None:
    """Measures and prints; the options after the first three serve its own child processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", action="append", default=[], help="zoo name, repeatable")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        print(prepare(options.folder, options.config[0]))
    elif options.case:
        print(json.dumps(measure(options.folder, options.config[0], *options.case)))
    else:
        configs = options.config or ["coco_r50", "coco_swin_large"]
        kept = Rounds("convert")
        results = [run(config, options.repeats, kept) for config in configs]
        print(json.dumps(results, indent=1)) if options.json else show(results)


def show(results: list[dict]) -> None:
    """One table per configuration."""
    for result in results:
        table = Table(title=f"{result['config']}, {result['file_bytes'] / 1e6:.0f} MB")
        table.add_column("work")
        for column in ("seconds", "times plain", "CPU", "times plain", "memory/file", "imports"):
            table.add_column(column, justify="right")
        for row in result["cases"]:
            table.add_row(
                f"{row['work']} {row['read']} -> {row['written']}",
                f"{row['seconds']:.2f}",
                f"{row['times_plain']:.2f}",
                f"{row['cpu_seconds']:.2f}",
                f"{row['cpu_times_plain']:.2f}",
                f"{row['peak_over_file']:.2f}",
                f"{row['import_seconds']:.1f}",
            )
        Console().print(table)


if __name__ == "__main__":
    main()
