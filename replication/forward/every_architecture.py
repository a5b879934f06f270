"""`parity audit --all`: the float64 audit of every architecture in the zoo, one after another."""

import dataclasses
import sys
import time

from maskformer.model import zoo
from maskformer.model.config import InferenceConfig, LossConfig, ModelConfig
from parity.claims import Claim, verdict_of
from replication.process.fresh_process import in_fresh_process
from reports.chapters.architectures import Architecture, ArchitecturesResult, nearest_of

SIZE = "64x96"


def architecture(config: ModelConfig) -> ModelConfig:
    """What is left of a configuration when all is set aside that leaves its architecture the same.

    Two configurations with the same result have the same modules and the same arithmetic; they
    differ at most in widths that follow the number of classes (class head, queries of the per-pixel
    baseline+), in losses, in post-processing, in the padding of batches, and in how they say
    whether the transformer's input is projected.
    """
    predictor = config.predictor
    channels = {
        **config.backbone.out_channels,
        "transformer_encoder": config.pixel_decoder.conv_dim,
    }[predictor.in_feature]
    predictor = dataclasses.replace(
        predictor,
        num_queries=0 if config.head == "PerPixelBaselinePlusHead" else predictor.num_queries,
        enforce_input_proj=predictor.enforce_input_proj or channels != predictor.hidden_dim,
    )
    return dataclasses.replace(
        config,
        name="",
        num_classes=1,
        predictor=predictor,
        loss=LossConfig(),
        inference=InferenceConfig(),
        size_divisibility=0,
        ignore_value=0,
    )


def architectures() -> dict[str, list[str]]:
    """The zoo's distinct architectures: the entry that is audited, and the names that it covers.

    The first entry of the zoo stands for all that have its architecture.
    """
    covered: dict[ModelConfig, list[str]] = {}
    for name in zoo.names():
        covered.setdefault(architecture(zoo.model_config(name)), []).append(name)
    return {names[0]: names for names in covered.values()}


def audit_one(
    name: str, weights: str, size: str, threads: int | None
) -> tuple[Architecture, tuple[Claim, ...]]:
    """One architecture, audited in float64 by this process, which it alone should be run in."""
    import resource

    from parity.steps import Steps
    from replication.forward.run import Request, audit
    from replication.process.threads import set_threads

    set_threads(threads)
    start = time.perf_counter()
    request = Request(
        config=zoo.model_config(name),
        weights=weights,
        size=size,
        executions=(),
        command=f"parity audit --all --size {size} --weights {weights}",
    )
    result = audit(request, Steps(total=0, quiet=True))
    float64 = result.float64
    units = 1 if sys.platform == "darwin" else 1024
    found = Architecture(
        config=name,
        covers=(name,),
        taps=result.taps,
        unpaired=result.unpaired,
        worst_gap=float64.worst_gap,
        worst_tap=float64.worst_tap,
        nearest=nearest_of(float64),
        first_divergence=result.first_divergence,
        verdict=result.verdict,
        seconds=round(time.perf_counter() - start, 1),
        peak_memory_gb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * units / 1e9, 2),
        provenance=result.provenance,
    )
    return found, tuple(dataclasses.replace(one, id=f"{name}/{one.id}") for one in result.claims)


def run_apart(
    name: str, weights: str, size: str, threads: int | None
) -> tuple[Architecture, tuple[Claim, ...]]:
    """`audit_one` in a process of its own, so that memory is given back and its peak is its own.

    Raises InputError where that process dies.
    """
    return in_fresh_process(
        audit_one,
        name,
        weights,
        size,
        threads,
        what=f"the audit of {name}",
        action=f"run it alone: parity audit --config {name} --size {size}",
    )


def audit_all(weights: str, size: str, threads: int | None, command: str) -> ArchitecturesResult:
    """The audits of all architectures, and their one verdict; progress goes to standard error."""
    covered = architectures()
    rows, claims = [], []
    start = time.perf_counter()
    for index, (name, names) in enumerate(covered.items(), start=1):
        print(f"[{index}/{len(covered)}] {name} ...", end="", file=sys.stderr, flush=True)
        row, found = run_apart(name, weights, size, threads)
        figures = f"{row.seconds:.0f} s, {row.peak_memory_gb:.1f} GB"
        print(f" {row.verdict}, {figures}", file=sys.stderr, flush=True)
        rows.append(dataclasses.replace(row, covers=tuple(names)))
        claims += found
    return ArchitecturesResult(
        verdict=verdict_of(claims),
        size=size,
        weights=weights,
        claims=tuple(claims),
        architectures=tuple(rows),
        seconds=round(time.perf_counter() - start, 1),
        command=command,
    )


def table(result: ArchitecturesResult) -> str:
    """The result as lines for a terminal."""
    lines = [
        f"{'architecture':<17}{'taps':>6}{'worst gap':>11}{'of limit':>10}{'s':>6}{'GB':>6}"
        "  verdict"
    ]
    for row in result.architectures:
        lines.append(
            f"{row.config:<17}{row.taps:>6}{row.worst_gap:>11.1e}"
            f"{row.nearest.value / row.nearest.limit:>10.2g}{row.seconds:>6.0f}"
            f"{row.peak_memory_gb:>6.1f}  {row.verdict}"
        )
        if row.first_divergence:
            lines.append(f"  first divergence: {row.first_divergence}")
        if len(row.covers) > 1:
            lines.append(f"  also: {', '.join(row.covers[1:])}")
    lines.append(
        f"verdict: {result.verdict}, {len(result.architectures)} architectures of "
        f"{result.entries_covered} entries, {result.seconds:.0f} s, "
        f"at most {result.peak_memory_gb:.1f} GB"
    )
    return "\n".join(lines)
