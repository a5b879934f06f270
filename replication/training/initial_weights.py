"""`parity initial-weights`: whether both trainers start from weights of the same distribution."""

import time
from collections.abc import Callable, Sequence

from maskformer.model import zoo
from maskformer.model.config import ModelConfig
from parity.claims import all_hold
from parity.comparing.initial_weights import Compared, claim_of, compare, sample
from parity.provenance import provenance
from replication.sides.side import PORT, REFERENCE, implementation
from reports.chapters.initial_weights import Configuration, InitialWeightsResult

SEEDS = 4
"""Draws of each side, by default."""


def compared(config: ModelConfig, seeds: int = SEEDS) -> list[Compared]:
    """Every parameter of both sides; each is built once for each seed from 0 on."""
    reference, port = (implementation(name).drawn for name in (REFERENCE, PORT))
    chosen = range(seeds)
    return compare(
        sample(lambda seed: reference(config, seed), chosen),
        sample(lambda seed: port(config, seed), chosen),
    )


def result(
    names: Sequence[str],
    seeds: int,
    command: str,
    advance: Callable[[str], None] = lambda text: None,
) -> InitialWeightsResult:
    """The comparison of the zoo's configurations `names`, recorded; `advance` is told each."""
    start, rows, claims = time.perf_counter(), [], []
    for name in names:
        found = compared(zoo.model_config(name), seeds)
        one = claim_of(found, f"parity initial-weights --config {name}", f"{name}/")
        advance(f"{name}: {one.verdict}, {len(found)} parameters")
        claims.append(one)
        differing = [row for row in found if row.ratio > 1.0]
        nearest = max(found, key=lambda row: row.ratio)
        rows.append(Configuration(name, one.verdict, len(found), tuple(differing) or (nearest,)))
    return InitialWeightsResult(
        verdict="holds" if all_hold(claims) else "fails",
        seeds=seeds,
        configurations=tuple(rows),
        claims=tuple(claims),
        seconds=round(time.perf_counter() - start, 1),
        command=command,
        provenance=provenance(),
    )
