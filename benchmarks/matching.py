"""What pairing two full models without a map costs, apart from building them.

    python -m benchmarks.matching --config coco_r50 --rounds 3

Both models are built once, the port with the reference's weights; a round runs each once and finds
what belongs together, as `parity match` does. Status 1 where the median is above `LIMIT` seconds of
the processor, of all threads together, or a module is paired with one of another name. The clock,
which other jobs on the machine slow down, stands beside.
"""

import argparse
import dataclasses
import statistics
import sys
import time

from benchmarks.rounds import Rounds
from maskformer.model import zoo
from parity import match
from parity.auditing.pair import InDtype
from parity.steps import Steps
from replication.forward.run import Request, prepare

LIMIT = 5.0


def main() -> None:
    """Prints the seconds of each round, and what was paired."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="coco_r50")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", default="128x160", help="of the one image, HxW")
    options = parser.parse_args()
    config = zoo.get(options.config).model
    pair = prepare(Request(config, "seeded:0", size=options.size), Steps(quiet=True)).pair
    built = [one.build("float32") for one in (pair.reference, pair.port)]
    pair = dataclasses.replace(
        pair,
        **{
            side: InDtype(lambda dtype, model=model: model)
            for side, model in zip(("reference", "port"), built, strict=True)
        },
        names=None,
        weights=None,
    )
    seconds, busy, rounds = [], [], Rounds("matching")
    for _ in range(options.rounds):
        start = time.perf_counter(), time.process_time()
        found = match(pair)
        seconds.append(time.perf_counter() - start[0])
        busy.append(time.process_time() - start[1])
        rounds.add(options.config, "match", busy[-1], "s of the processor")
    wrong = [(one.ours, one.theirs) for one in found.modules if one.ours != one.theirs]
    for what, times in (("clock", seconds), ("processor", busy)):
        print(f"{options.config}: {', '.join(f'{one:.1f}' for one in times)} s of the {what}")
    print(found.coverage)
    print(f"{len(found.modules)} modules, {len(wrong)} with one of another name {wrong[:4]}")
    print(f"{len(found.questions)} questions")
    sys.exit(bool(wrong) or statistics.median(busy) > LIMIT)


if __name__ == "__main__":
    main()
