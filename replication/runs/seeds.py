"""Trains both sides from several seeds, and tests that their final scores are equivalent."""

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from maskformer.metrics.run_scores import COUNTS
from maskformer.runs.run_record import DESCRIPTION, METRICS, SCORES
from parity import claims
from parity.errors import InputError
from parity.measurements import Equivalence
from parity.records import write_json
from replication.runs.comparison import compare_runs
from replication.runs.trainers import Request, train
from reports.chapters.seeds import SCORE, SeedsResult, spread
from reports.chapters.training_runs import RunsResult

COMPARISON = "comparison.json"
RESULT = "seeds.json"
MARGIN = 3.0
"""Points of panoptic quality; the published table separates R50 from Swin-S by 3.2."""
ALPHA = 0.05


def train_seeds(request: Request, seeds: Sequence[int], margin: float) -> SeedsResult:
    """Trains both sides for every seed in `OUT/seed_N`, and compares them.

    `request.given` has all settings but the seed. With `request.resume` a seed whose comparison is
    there is not trained again, and one that was interrupted is continued.
    Raises InputError as `training_runs.train`, and for fewer than two seeds or another margin than
    a positive one, before anything is trained.
    """
    if len(seeds) < 2:
        raise InputError(
            f"{len(seeds)} seeds were asked for",
            "one difference has no spread to test against",
            "Give --seeds 2 or more.",
        )
    if not (math.isfinite(margin) and margin > 0):
        raise InputError(f"the margin is {margin}", "expected: a positive number of points")
    folders: dict[int, dict[str, Path]] = {}
    for seed in seeds:
        out = request.out / f"seed_{seed}"
        one = dataclasses.replace(request, out=out, given={**request.given, "seed": seed})
        if request.resume and (out / COMPARISON).is_file():
            folders[seed] = {name: out / name for name in request.sides}
            continue
        folders[seed] = train(one)
        write_comparison(compare_runs(folders[seed]), out)
    return compare_seeds(folders, margin)


def write_comparison(result: RunsResult, out: Path) -> None:
    """Writes the comparison of two runs beside them."""
    write_json(result.to_json(), out, COMPARISON)


def compare_seeds(folders: Mapping[int, Mapping[str, Path]], margin: float) -> SeedsResult:
    """The comparison of runs by seed and side.

    The verdict is "equivalent" where two one-sided t-tests over the seeds' differences of panoptic
    quality show them inside (-margin, margin), "not shown" else.
    Raises InputError where the runs are of different settings or have no such score.
    """
    seeds = {seed: compare_runs(one) for seed, one in folders.items()}
    first = next(iter(seeds.values()))
    for seed, one in seeds.items():
        if (one.config, one.steps) != (first.config, first.steps):
            raise InputError(
                f"the runs of seed {seed} are {one.config}, {one.steps} steps",
                f"those of the first seed are {first.config}, {first.steps} steps",
                "Compare runs of the same settings.",
            )
    names = list(next(iter(folders.values())))
    one_pair = first.command or "parity train --side both"
    scores = {
        name: {side: [one.sides[side].scores.get(name) for one in seeds.values()] for side in names}
        for name in SCORES
        if name in first.sides[names[0]].scores
    }
    if SCORE not in scores:
        raise InputError(
            f"the runs have no {SCORE}",
            f"they have: {', '.join(scores) or 'no score'}",
            "Train a panoptic configuration on data with segments.",
        )
    found = {
        name: spread(values, names, ALPHA)
        for name, values in scores.items()
        if all(value is not None for side in values.values() for value in side)
    }
    claim = claims.claim(
        "metric_trained/equivalence",
        f"panoptic quality after training differs by less than {margin:g} points between the sides",
        Equivalence(
            dict(zip(map(str, seeds), found[SCORE].differences, strict=True)),
            margin,
            ALPHA,
            max(value for side in found[SCORE].scores.values() for value in side),
            otherwise="not shown",
        ),
        f"two one-sided t-tests over {len(seeds)} seeds, paired; the value is the larger p, the "
        f"limit its level; the margin of {margin:g} points is given with the command",
        f"{one_pair} --seeds {len(seeds)} --margin {margin:g}",
    )
    return SeedsResult(
        verdict="equivalent" if claim.holds else "not shown",
        config=first.config,
        steps=first.steps,
        of=f"{names[1]} - {names[0]}",
        margin=margin,
        alpha=ALPHA,
        p_value=claim.value,
        scores=found,
        seeds={str(seed): one for seed, one in seeds.items()},
        files={
            f"seed_{seed}/{side}/{name}": hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for seed, one in folders.items()
            for side, folder in one.items()
            for name in (DESCRIPTION, METRICS, COUNTS)
        },
        claims=(claim,),
    )
