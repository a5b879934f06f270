"""The sections of an audit: two models compared tensor by tensor on the same inputs."""

import math
from collections.abc import Iterable, Iterator, Sequence

from markupsafe import Markup

from maskformer.family import MASKFORMER
from parity.auditing.result import AuditResult, FunctionFigures, Layer, PrecisionFigures
from parity.claims import Claim
from parity.judge import Verdict
from parity.measurements import Margins
from reports import words as claims
from reports.changes import Change, too_large
from reports.chapters import audit_recheck
from reports.document import (
    Block,
    Cell,
    Chapter,
    Column,
    Facts,
    Figure,
    Items,
    Plot,
    Section,
    Table,
    Text,
    describe,
    flatten,
    number,
)
from reports.drawing import network
from reports.drawing.plots import Point, layer_plot
from reports.evidence import Evidence
from reports.kind import Kind, Special
from reports.ladder import AUDITED
from reports.sections import training
from reports.subjects import WEIGHTS, Subject, files, picked

NARROW, WIDE = (360, 300), (1080, 380)  # width and height of a plot on a phone, and elsewhere


def chapter(one: Evidence, recorded: Sequence[Claim]) -> Chapter:
    """An audit's chapter: all that the result holds, in the order of a reader's questions."""
    result = one.result
    drawn = network.blocks(recorded, {one.path: one.edge for one in result.localisations})
    return claims.chapter(
        one,
        recorded,
        headline(result),
        *([Section("Map of the network", drawn)] if drawn else []),
        Section("Same function: float64 gap against its limit", _float64(result)),
        Section("Same precision: float32 error against the reference's own", _float32(result)),
        Section("Where a difference is, or would be, found", _where(result)),
        Section("Every tensor", (_layer_table(result.layers),)),
        *training.sections(recorded),
        Section("What is not verified", _not_verified(result)),
        Section("How it was run", _run(result)),
        Section("Versions and hashes", (Facts(tuple(flatten(result.provenance))),)),
    )


def _stages(layers: Iterable[Layer]) -> tuple[str, ...]:
    """The stages present: known ones in their fixed order, then others as they come."""
    present = list(dict.fromkeys(layer.stage for layer in layers))
    known = [stage for stage in MASKFORMER.stages if stage in present]
    return (*known, *[stage for stage in present if stage not in MASKFORMER.stages])


def _closest_to_limit(layers: Sequence[Layer]) -> Layer:
    """The layer with the largest share of its float64 limit; one without a number comes first."""

    def share(layer: Layer) -> float:
        gap, limit = layer.float64.gap, layer.float64.limit
        if math.isnan(gap):
            return math.inf
        return gap / limit if limit > 0 else gap * math.inf if gap else 0.0

    return max(layers, key=share)


def _numeric(value: float | None, tone: str = "") -> Cell:
    return Cell(number(value), value if claims.is_number(value) else "", tone)


def _plot(points: Sequence[Point], title: str, description: str, wide: bool) -> Plot:
    def draw(size: tuple[int, int], labels: bool) -> Markup:
        return layer_plot(points, title, description, *size, labels=labels)

    return Plot(title, draw(NARROW, not wide), draw(WIDE, True) if wide else None)


def _float64(result: AuditResult) -> tuple[Block, ...]:
    layers = result.layers
    if not layers:
        return (Text("No tensor was compared."),)
    points = [
        Point(
            f"{layer.key}: gap {number(layer.float64.gap)}, limit {number(layer.float64.limit)}",
            layer.stage,
            layer.float64.gap,
            layer.float64.limit,
            layer.float64.passed,
        )
        for layer in layers
    ]
    failed = sum(not point.passed for point in points)
    summary = f"{number(len(points))} tensors, {number(failed)} above their limit"
    plot = _plot(
        points,
        "float64 gap in units of its limit",
        f"Float64 gap of every tensor against its limit: {summary}. Values: see Every tensor.",
        wide=True,
    )
    caption = (
        f"Each dot is a tensor's gap divided by its limit, the line is at 1: {summary}. "
        "A cross marks a tensor above its limit."
    )
    return (Figure(caption, (plot,), _stages(layers)), _stage_table(layers))


def _stage_table(layers: Sequence[Layer]) -> Table:
    rows = []
    for stage in _stages(layers):
        members = [layer for layer in layers if layer.stage == stage]
        worst = _closest_to_limit(members)
        judged = worst.float64
        rows.append(
            (
                Cell(stage, stage, stage=stage),
                _numeric(len(members)),
                _numeric(judged.gap),
                _numeric(judged.limit),
                Cell(claims.margin(judged.gap, judged.limit)),
                Cell(worst.key),
            )
        )
    columns = (
        Column("Stage"),
        Column("Tensors", numeric=True),
        Column("Gap", numeric=True),
        Column("Limit", numeric=True),
        Column("Margin"),
        Column("Tensor", code=True),
    )
    return Table("Per stage, the tensor closest to its float64 limit", columns, tuple(rows))


def _float32(result: AuditResult) -> tuple[Block, ...]:
    executions = result.float32
    layers = result.layers
    if not executions or not layers:
        return (Text("Not run in float32."),)
    plots = []
    for execution, judged in executions.items():
        limit = judged.limit
        points = [
            Point(
                f"{layer.key}: ratio {number(layer.float32[execution].ratio)}",
                layer.stage,
                layer.float32[execution].ratio,
                limit,
                layer.float32[execution].passed,
            )
            for layer in layers
            if execution in layer.float32
        ]
        failed = sum(not point.passed for point in points)
        description = (
            f"Float32 error ratio of every tensor, execution {execution}: {number(len(points))} "
            f"tensors, {number(failed)} above the limit of {number(limit)}."
        )
        plots.append(_plot(points, f"{execution}: error ratio / limit", description, wide=False))
    rows = tuple(
        (
            Cell(execution),
            _numeric(judged.worst_ratio),
            _numeric(judged.limit),
            Cell(judged.worst_tap),
            Cell(_ulps(layers, judged.worst_tap, execution)),
        )
        for execution, judged in executions.items()
    )
    columns = (
        Column("Execution"),
        Column("Worst ratio", numeric=True),
        Column("Limit", numeric=True),
        Column("Tensor", code=True),
        Column("Distance in ulp (units in the last place)"),
    )
    caption = (
        "The port's float32 error divided by the reference's own, both measured against the "
        "reference in float64. 1 means: as exact as the reference."
    )
    return (
        Figure(caption, tuple(plots), _stages(layers)),
        Table("Per execution, the worst tensor", columns, rows),
    )


def _ulps(layers: Sequence[Layer], key: str, execution: str) -> str:
    """How far a tensor is from the reference: `median 1, 99 % within 9, at most 80`."""
    figures = next((one.float32.get(execution) for one in layers if one.key == key), None)
    words = {"ulp50": "median", "ulp99": "99 % within", "ulp_max": "at most"}
    found = [
        f"{word} {number(value)}"
        for name, word in words.items()
        if (value := getattr(figures, name, None)) is not None
    ]
    return ", ".join(found) or "not recorded"


def _where(result: AuditResult) -> tuple[Block, ...]:
    blocks: list[Block] = []
    found = result.localisation
    if found:
        kinds = {
            "own": "The module computes something else, on the reference's own inputs.",
            "wiring": "Every module is right alone; this connection carries another tensor.",
        }
        names = {"edge": "tensor", "evidence": "evidence", "cause": "likely cause"}
        pairs = [("where", found.path), ("kind", kinds.get(found.kind, found.kind))]
        pairs += [
            (shown, value) for name, shown in names.items() if (value := getattr(found, name))
        ]
        blocks.append(Facts(tuple(pairs)))
    elif result.verdict != "equal":
        blocks.append(Text("The models differ; no single module or connection was named for it."))
    if result.first_divergence:
        blocks.append(Text(f"First tensor above its limit: {result.first_divergence}."))
    for side, keys in vars(result.unpaired).items():
        if keys:
            blocks.append(Text(f"Only in the {side}, compared with nothing:"))
            blocks.append(Items(keys))
    if result.layers:
        blocks.append(_sensitivity_table(result.layers))
    return tuple(blocks)


def _sensitivity_table(layers: Sequence[Layer]) -> Table:
    rows = []
    for stage in _stages(layers):
        members = [layer for layer in layers if layer.stage == stage]
        first = members[0]
        tightest = min(members, key=lambda layer: layer.float64.limit)
        rows.append(
            (
                Cell(stage, stage, stage=stage),
                Cell(first.key),
                _numeric(first.float64.limit),
                Cell(tightest.key),
                _numeric(tightest.float64.limit),
            )
        )
    columns = (
        Column("Stage"),
        Column("First tensor", code=True),
        Column("Smallest gap reported there", numeric=True),
        Column("Most sensitive tensor", code=True),
        Column("Smallest gap reported there", numeric=True),
    )
    return Table(
        "Sensitivity: the smallest relative float64 gap that would be reported, per stage",
        columns,
        tuple(rows),
    )


def _layer_table(layers: Sequence[Layer]) -> Table:
    executions = tuple(dict.fromkeys(name for layer in layers for name in layer.float32))
    columns = (
        Column("#", numeric=True),
        Column("Tensor", code=True),
        Column("Verdict", choices=True),
        Column("Stage", choices=True),
        Column("Kind", choices=True),
        Column("Shape"),
        Column("Gap", numeric=True),
        Column("Limit", numeric=True),
        *[Column(f"{name} ratio", numeric=True) for name in executions],
        *[Column(f"{name} ulp p99", numeric=True) for name in executions],
    )
    rows = tuple(_layer_row(index, layer, executions) for index, layer in enumerate(layers, 1))
    return Table("Every compared tensor in execution order", columns, rows, interactive=True)


def _layer_row(index: int, layer: Layer, executions: Sequence[str]) -> tuple[Cell, ...]:
    float64, float32 = layer.float64, layer.float32
    judged = [float64, *float32.values()]
    passed = all(item.passed for item in judged)
    shape = "x".join(str(size) for size in layer.shape) or "scalar"

    def tone(item: FunctionFigures | PrecisionFigures | None) -> str:
        return "" if item is None or item.passed else "bad"

    sides = [float32.get(name) for name in executions]
    return (
        _numeric(index),
        Cell(layer.key, layer.key),
        Cell("holds" if passed else "fails", tone="good" if passed else "bad"),
        Cell(layer.stage, layer.stage, stage=layer.stage),
        Cell(layer.kind, layer.kind),
        Cell(f"{layer.axes} {shape}", math.prod(layer.shape)),
        _numeric(float64.gap, tone(float64)),
        _numeric(float64.limit),
        *[_numeric(side and side.ratio, tone(side)) for side in sides],
        *[_numeric(side and side.ulp99) for side in sides],
    )


def _not_verified(result: AuditResult) -> tuple[Block, ...]:
    if not result.not_verified:
        return (Text("The run recorded no open question."),)
    return (Items(tuple(result.not_verified)),)


def _run(result: AuditResult) -> tuple[Block, ...]:
    blocks: list[Block] = []
    if result.inputs:
        rows = tuple(
            (Cell(item.name), Cell(describe(item.size)), Cell(item.sha256))
            for item in result.inputs
        )
        columns = (Column("Input"), Column("Size"), Column("sha256", code=True))
        blocks.append(Table("Inputs", columns, rows))
    if result.capture_effect:
        blocks.append(Text("Effect of capturing on the outputs, capture on against off:"))
        blocks.append(Facts(tuple(flatten(result.capture_effect))))
    if result.timings:
        blocks.append(Text("Time, in seconds:"))
        blocks.append(Facts(tuple(flatten(result.timings))))
    return tuple(blocks)


def headline(result: AuditResult) -> str:
    """An audit's verdict in one line with its strongest figures, all of them recorded ones."""
    float64, float32 = result.float64, result.float32
    parts = [
        f"worst float64 gap {number(float64.worst_gap)}, limit {number(float64.limit)} "
        f"({float64.worst_tap})"
    ]
    if float64.nearest_to_limit.value > float64.nearest_to_limit.limit:
        most = float64.nearest_to_limit  # whose limit is passed, as that of the largest may not be
        parts = [
            f"float64 gap {number(most.value)} ({most.metric}) at {most.tap}, limit "
            f"{number(most.limit)}"
        ]
    if float32:
        ratios = ", ".join(f"{name} {number(one.worst_ratio)}" for name, one in float32.items())
        limits = "/".join(dict.fromkeys(number(one.limit) for one in float32.values()))
        parts.append(f"worst float32 error ratio {ratios}, limit {limits}")
    missing = len(result.unpaired.reference) + len(result.unpaired.port)
    if missing:
        parts.append(f"without a partner: {number(missing)}")
    taps = f"{number(result.taps)} tensors"
    if result.verdict == "equal":
        lead = f"The port computes what the reference computes, at all {taps} compared"
    else:
        found = result.localisation
        where = found.path if found else result.first_divergence
        place = f" at {where}" if where else ""
        cause = f", likely cause: {found.cause}" if found and found.cause else ""
        lead = f"The port differs{place}{cause}; {taps} compared"
    return f"{lead}: {'; '.join(parts)}."


def _changes(before: Evidence, after: Evidence) -> Iterator[Change | None]:
    """Tensors whose verdict changed, or whose error grew; None for each that is about as it was."""
    old, new = ({one.id: one.measured for one in each.result.claims} for each in (before, after))
    for identity, other in new.items():
        if isinstance(other, Margins) and isinstance(old.get(identity), Margins):
            earlier = old[identity].verdicts()
            for key, now in other.verdicts().items():
                yield _tensor(f"{key} [{identity}]", earlier.get(key), now)


def _tensor(name: str, was: Verdict | None, now: Verdict) -> Change | None:
    if was is None:
        return Change("tensor", name, "not compared", f"{now.value:.2g}", not now.passed)
    texts = (f"{was.value:.2g}", f"{now.value:.2g}")
    if was.passed != now.passed:
        reason = "above its limit now" if was.passed else "within its limit now"
        return Change("tensor", name, *texts, was.passed, reason)
    for metric, (value, base) in now.measured.items():
        if metric in was.measured and (reason := too_large(was.measured[metric][0], value, base)):
            pair = (f"{was.measured[metric][0]:.2g}", f"{value:.2g}")
            return Change("tensor", name, *pair, now.passed, f"{metric}: {reason}")
    return None


def _subject(result: AuditResult) -> Subject:
    """What tells such a result from others, beside the configuration."""
    claims = [one.id for one in result.claims]
    return {
        "title": result.title or None,
        **picked(result.provenance, WEIGHTS),
        "inputs": files(result.inputs),
        "executions": sorted(result.float32),
        "isolated": "isolated_function" in claims,
        "training": any(one.startswith("train_") for one in claims),
    }


KIND = Kind(
    result=AuditResult,
    name="audit",
    title="Audit",
    detail=None,
    subject=_subject,
    rungs=AUDITED,
    chapter=chapter,
    recheck=audit_recheck.differing,
    given={
        **dict.fromkeys(
            ("inputs", "layers.*.axes", "layers.*.shape", "layers.*.stage"),
            "names, shapes and hashes of inputs and tensors",
        ),
        **dict.fromkeys(
            (
                "layers.*.float64.measured_floor",
                "layers.*.float32.*.e_ref",
                "layers.*.float32.*.ulp*",
                "witness",
                "not_finite",
                "kept_in_float64",
            ),
            "figures that decide no claim: floors before their least, units in the last place, "
            "losses beside, casts",
        ),
        **dict.fromkeys(
            (
                "localisations.*.edge",
                "localisations.*.evidence",
                "localisations.*.kind",
                "localisations.*.verdicts.*.detail",
                "localisations.*.explanations",
            ),
            "the runs that looked for places and causes",
        ),
        "timings": "times",
        "not_verified": "what the run says that it left open",
    },
    derived=None,
    records_claims=True,
    changes=_changes,
    special=Special(of_pairs=True),
)
