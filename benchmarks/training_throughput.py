"""Images per second of the two trainers, whole: reading data, the step, the record.

    python -m benchmarks.training_throughput --rounds 3 --steps 40 --json

Both run as `parity train` runs them, from the same weights on the same scenes with as many threads,
and take turns; rows of a run before the first `--warm-up` steps are left out.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.rounds import Rounds
from maskformer.runs.run_record import read_run
from parity.errors import InputError

SIDES = ("torch", "tf")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="scenes_tiny")
    parser.add_argument("--batch", type=int, help="images per update (default: the config's)")
    parser.add_argument("--images", type=int, default=32, help="scenes to draw")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side")
    parser.add_argument("--steps", type=int, default=40, help="updates of a run")
    parser.add_argument("--warm-up", type=int, default=10, help="updates that are not counted")
    parser.add_argument("--every", type=int, default=5, help="updates of one measurement")
    parser.add_argument("--threads", type=int, default=2, help="of each trainer")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Trains in turns; images per second of every measurement, and the share of waiting for data.

    Raises InputError where no measurement is left after the warm-up, and as the trainers do.
    """
    from maskformer.scenes.scenes import write_scenes
    from replication.runs.trainers import Request, train

    if arguments.steps < arguments.warm_up + arguments.every:
        raise InputError(
            f"--steps {arguments.steps} leaves nothing to measure",
            f"--warm-up {arguments.warm_up} and --every {arguments.every} need more",
        )
    write_scenes(folder / "scenes", arguments.images, seed=0)
    given = {
        "config": arguments.config,
        "data": str(folder / "scenes"),
        "steps": arguments.steps,
        "record_every": arguments.every,
    }
    if arguments.batch:
        given["batch"] = arguments.batch
    rounds = Rounds("training_throughput")
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    waits: dict[str, list[float]] = {side: [] for side in SIDES}
    memory: dict[str, float] = dict.fromkeys(SIDES, 0.0)
    for number in range(arguments.rounds):
        order = SIDES if number % 2 == 0 else SIDES[::-1]
        request = Request(
            folder / f"round_{number}", order, given, threads=arguments.threads, visible=False
        )
        for side, run in train(request).items():
            steps, values = read_run(run).column("examples_per_second")
            kept = steps > arguments.warm_up
            rates[side] += values[kept].tolist()
            waits[side] += read_run(run).column("data_wait_share")[1][kept].tolist()
            memory[side] = max(memory[side], read_run(run).last("memory_bytes", "train"))
            rate = statistics.median(values[kept])
            rounds.add(arguments.config, side, rate, "images/s")
    medians = {side: statistics.median(values) for side, values in rates.items()}
    return {
        "config": arguments.config,
        "batch": read_run(run).description["settings"]["batch"],
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "median_images_per_second": medians,
        "ratio": medians["tf"] / medians["torch"],
        "data_wait_share": {side: statistics.median(values) for side, values in waits.items()},
        "memory_bytes": memory,
        "all_images_per_second": rates,
    }


def main() -> None:
    """Prints the medians and their ratio."""
    arguments = parse_arguments()
    try:
        with tempfile.TemporaryDirectory(prefix="throughput-") as folder:
            result = measure(arguments, Path(folder))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if arguments.json:
        print(json.dumps(result))
        return
    print(
        f"{result['config']}, batch {result['batch']}, {result['threads']} threads, "
        f"{result['rounds']} runs of each side"
    )
    for side, rate in result["median_images_per_second"].items():
        values = result["all_images_per_second"][side]
        print(
            f"  {side:6} {rate:6.2f} images/s ({min(values):.2f} to {max(values):.2f}), "
            f"{result['data_wait_share'][side]:.1%} of the time waiting for data, "
            f"{result['memory_bytes'][side] / 2**30:.2f} GiB"
        )
    print(f"  tf / torch: {result['ratio']:.2f}")


if __name__ == "__main__":
    main()
