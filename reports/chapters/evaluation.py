"""The sections of an evaluation: scores with intervals, and how far two sides agree."""

from collections.abc import Iterator, Sequence
from pathlib import PurePath

from markupsafe import Markup, escape

from maskformer.metrics.statistics import Equivalence, Missing
from parity.claims import Claim, claim
from parity.measurements import Findings, Largest, Measurement, Relative, relative_gap
from reports import words as claims
from reports.changes import Change
from reports.chapters.evaluation_result import (
    EvaluationComparison,
    EvaluationResult,
    ScoreComparison,
    SideScores,
)
from reports.checks import EPSILON, ROUNDINGS, Difference, differ, near
from reports.document import (
    Block,
    Cell,
    Chapter,
    Column,
    Facts,
    Figure,
    Items,
    Pictures,
    Plot,
    Section,
    Table,
    Text,
    number,
)
from reports.drawing.pictures import embedded
from reports.evidence import SIDES, Evidence
from reports.kind import Kind, Scored, Special
from reports.labels import difference as named
from reports.sections import scores
from reports.subjects import WEIGHTS, Subject, picked

SCORES = (("mIoU", "miou"), ("fwIoU", "fwiou"), ("mACC", "macc"), ("pACC", "pacc"))
ROW, LEFT, RIGHT, TOP = 26, 124, 16, 34  # of the plot of intervals, in SVG units
NARROW, WIDE = 360, 760
NOTHING = "none: both score 0, which says nothing"


def chapter(one: Evidence, recorded: Sequence[Claim]) -> Chapter:
    """An evaluation's chapter: all that the result holds."""
    result = one.result
    compared = []
    if result.comparison is not None:
        compared = [
            Section("The two sides compared", _comparison(result)),
            Section("Images that differ", _differing(result.comparison)),
        ]
    return claims.chapter(
        one,
        recorded,
        _headline(result),
        Section("Scores", _scores(result)),
        *compared,
        Section("Every class", (_classes(result),)),
        Section("Pictures", _pictures(one)),
        Section("How it was run", _run(result)),
    )


def _percent(value: float | None, signed: bool = False) -> str:
    if value is None:
        return "does not occur"
    return f"{100 * value:+.3f}" if signed else f"{100 * value:.2f}"


def _headline(result: EvaluationResult) -> str:
    parts = []
    for name, side in result.sides.items():
        panoptic = side.of("PQ All")
        quality = "" if panoptic is None else f"PQ {_percent(panoptic)}, "
        parts.append(f"{SIDES.get(name, name)}: {quality}mIoU {_percent(side.miou)}")
    text = f"{'; '.join(parts)} ({number(result.images)} images)"
    if result.comparison is not None:
        unexplained = result.comparison.unexplained
        text += f"; {number(unexplained)} pixels differ by more than rounding explains"
    if result.random:
        text += ". The weights are random numbers: scores tell the sides apart, not quality"
    return f"{text}."


def _score_rows(result: EvaluationResult) -> list[tuple[str, str, list[float]]]:
    """Label, name of the interval ("" where none is made), and each side's value."""
    sides = list(result.sides.values())
    rows = []
    for group in sides[0].panoptic:
        for key in ("pq", "sq", "rq"):
            values = [getattr(side.panoptic[group], key) for side in sides]
            label = f"{key.upper()} {group}"
            rows.append((label, label if key == "pq" else "", values))
    return rows + [(label, label, [getattr(side, key) for side in sides]) for label, key in SCORES]


def _interval(side: SideScores, name: str) -> tuple[float, float] | None:
    found = side.interval(name)
    return None if found is None else (found.low, found.high)


def _scores(result: EvaluationResult) -> tuple[Block, ...]:
    sides = result.sides
    columns = [Column("Score")]
    for name in sides:
        columns += [Column(name, numeric=True), Column(f"{name}, interval")]
    rows = []
    for label, interval, values in _score_rows(result):
        cells = [Cell(label)]
        for side, value in zip(sides.values(), values, strict=True):
            bounds = _interval(side, interval)
            text = f"{_percent(bounds[0])} to {_percent(bounds[1])}" if bounds else ""
            cells += [Cell(_percent(value), value), Cell(text)]
        rows.append(tuple(cells))
    caption = "Scores in percent; intervals: bootstrap over images"
    known = [x for side in sides.values() for x in side.intervals.values()]
    found = [one for one in known if not isinstance(one, Missing)]
    if found:
        confidence, resamples = found[0].confidence, found[0].resamples
        caption += f", {100 * confidence:.0f} %, {number(resamples)} resamples"
    blocks: list[Block] = []
    if plot := _interval_plot(result):
        blocks.append(plot)
    missing = {
        f"{name}, {score}: no interval, {one.reason}."
        for name, side in sides.items()
        for score, one in side.intervals.items()
        if isinstance(one, Missing)
    }
    blocks.append(Table(caption, tuple(columns), tuple(rows)))
    return (*blocks, Items(tuple(sorted(missing)))) if missing else tuple(blocks)


def _interval_plot(result: EvaluationResult) -> Figure | None:
    """Each score with an interval as a dot on its line, one row per side; None without any."""
    rows = [
        (f"{label}, {name}", value, bounds)
        for label, interval, values in _score_rows(result)
        for (name, side), value in zip(result.sides.items(), values, strict=True)
        if interval and (bounds := _interval(side, interval))
    ]
    if not rows:
        return None
    described = "; ".join(
        f"{label} {_percent(value)}, {_percent(low)} to {_percent(high)}"
        for label, value, (low, high) in rows
    )
    plot = Plot(
        "scores", *(_draw_intervals(rows, f"Scores. {described}.", w) for w in (NARROW, WIDE))
    )
    return Figure("Each score in percent with its interval. The same figures as below.", (plot,))


def _draw_intervals(
    rows: Sequence[tuple[str, float, tuple[float, float]]], description: str, width: int
) -> Markup:
    height = TOP + ROW * len(rows) + 10
    most = max(max(high, value) for _, value, (_, high) in rows)
    step = next(s for s in (0.001, 0.005, 0.02, 0.05, 0.1, 0.25) if most <= 4 * s or s == 0.25)
    end = step * max(1, -(-most // step))

    def x(share: float) -> float:
        return LEFT + share / end * (width - LEFT - RIGHT)

    parts = [
        f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(description)}"><g aria-hidden="true">'
    ]
    for tick in range(round(end / step) + 1):
        at = x(tick * step)
        parts.append(
            f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 8}" y2="{height - 6}"/>'
            f'<text class="axis" x="{at:.1f}" y="18" text-anchor="middle">'
            f"{100 * tick * step:g}</text>"
        )
    for index, (label, value, (low, high)) in enumerate(rows):
        y = TOP + ROW * index + ROW / 2
        parts.append(
            f'<text class="axis" x="4" y="{y + 4:.1f}">{escape(label)}</text>'
            f'<path class="limit" d="M{x(low):.1f} {y:.1f}H{x(high):.1f}'
            f'M{x(low):.1f} {y - 5:.1f}v10M{x(high):.1f} {y - 5:.1f}v10"/>'
            f'<circle class="s0" cx="{x(value):.1f}" cy="{y:.1f}" r="4"/>'
        )
    return Markup("".join([*parts, "</g></svg>"]))


def _comparison(result: EvaluationResult) -> tuple[Block, ...]:
    found = result.comparison
    facts = [
        ("images that differ", f"{number(found.images_that_differ)} of {result.images:,}"),
        ("pixels compared", number(found.pixels)),
        ("panoptic pixels that differ", number(found.panoptic_pixels)),
        ("label pixels that differ", number(found.label_pixels)),
        ("segments without a partner", number(found.segments)),
        ("pixels that rounding does not explain", number(found.unexplained)),
    ]
    first, second = result.sides
    facts += [
        (
            f"{name} of {SIDES.get(second, second)} with {SIDES[first]} as the truth",
            f"{100 * value:.3f} %",
        )
        for name, value in found.agreement.items()
    ]
    rows = tuple(_compared(name, one) for name, one in found.scores.items())
    columns = (
        Column("Score"),
        Column("Difference", numeric=True),
        Column("Interval"),
        Column("p", numeric=True),
        Column("Equivalence"),
    )
    caption = f"{named(found.of)} on the same images, in points; intervals by a paired bootstrap"
    blocks: list[Block] = [Facts(tuple(facts)), Table(caption, columns, rows)]
    if result.random:
        blocks.append(
            Text(
                "With random weights most scores are near 0 on both sides, so that equal scores "
                "show little. The agreement of the two sides with each other shows more."
            )
        )
    return tuple(blocks)


def _compared(name: str, one: ScoreComparison) -> tuple[Cell, ...]:
    difference, equivalence = one.difference, one.equivalence
    if isinstance(difference, Missing):
        return Cell(name), Cell(""), Cell(f"none: {difference.reason}"), Cell(""), Cell("")
    interval = difference.interval
    bounds = f"{_percent(interval.low, True)} to {_percent(interval.high, True)}"
    if isinstance(equivalence, Missing):
        judged = Cell(f"not testable: {equivalence.reason}")
    else:
        shown = equivalence.holds
        margin = f"within {100 * equivalence.margin:g} points"
        judged = Cell(
            f"{'shown' if shown else 'not shown'} {margin} (p {number(equivalence.p_value)})",
            tone="good" if shown else "",
        )
    return (
        Cell(name),
        Cell(_percent(interval.value, True), interval.value),
        Cell(bounds),
        Cell(number(difference.p_value), difference.p_value),
        judged,
    )


def _differing(comparison: EvaluationComparison) -> tuple[Block, ...]:
    if not comparison.disagreements:
        return (Text("No image differs in any pixel."),)
    keys = ("panoptic_pixels", "label_pixels", "segments", "unexplained")
    rows = tuple(
        (
            Cell(row.image, row.image),
            *(
                Cell(number(count), count, "bad" if key == "unexplained" and count else "")
                for key in keys
                for count in [getattr(row, key)]
            ),
        )
        for row in comparison.disagreements
    )
    titles = ("Panoptic pixels", "Label pixels", "Segments", "Not explained by rounding")
    columns = (Column("Image", code=True), *(Column(title, numeric=True) for title in titles))
    return (Table("What differs in each image", columns, rows, interactive=True),)


def _classes(result: EvaluationResult) -> Table:
    sides = result.sides
    panoptic = any(side.panoptic for side in sides.values())
    keys = ("pq", "sq", "rq", "iou") if panoptic else ("iou", "accuracy")
    titles = {"pq": "PQ", "sq": "SQ", "rq": "RQ", "iou": "IoU", "accuracy": "accuracy"}
    columns = [Column("Class"), Column("Kind", choices=True)]
    columns += [Column(f"{name} {titles[key]}", numeric=True) for name in sides for key in keys]
    rows = []
    for members in zip(*(side.per_class for side in sides.values()), strict=True):
        figures = [getattr(row, key) for row in members for key in keys]
        kind = "thing" if members[0].isthing else "stuff"
        cells = [Cell(members[0].name, members[0].name), Cell(kind, kind)]
        cells += [
            Cell("", "") if figure is None else Cell(_percent(figure), figure) for figure in figures
        ]
        rows.append(tuple(cells))
    caption = "Scores of every class in percent; empty: does not occur"
    return Table(caption, tuple(columns), tuple(rows), interactive=True)


def _pictures(one: Evidence) -> tuple[Block, ...]:
    """The pictures that were kept with the result; the names of those that were not."""
    result = one.result
    names = result.pictures
    if not names:
        return (Text("None were drawn."),)
    which = "that differ most" if result.comparison else "with the lowest scores"
    kept = [name for name in one.files if name != one.main]
    if not kept:
        text = f"The images {which} first; they are beside the result, not in this report."
        return (Text(text), Items(tuple(names)))
    caption = (
        f"The images {which} first: photograph, truth, predictions, dark where nothing is "
        "predicted. Where the two sides disagree, pixels are yellow where rounding explains it and "
        "red where it does not."
    )
    alt = "Photograph, truth and predictions of"
    return (Pictures(caption, alt, tuple(embedded(name, one.files[name]) for name in kept)),)


def _run(result: EvaluationResult) -> tuple[Block, ...]:
    short, long = result.test_size
    facts = [
        ("command", result.command),
        ("config, sha256", f"{result.config}, {result.config_sha256}"),
        ("weights, sha256", f"{result.weights}, {result.weights_sha256}"),
        *(
            [
                (
                    "TensorFlow's own, sha256",
                    f"{result.port_weights}, {result.port_weights_sha256}",
                )
            ]
            if result.port_weights
            else []
        ),
        ("data", f"{result.data}, {result.split} ({result.layout})"),
        ("size of images", f"short side {short}, long side at most {long} pixels"),
        ("multi-scale and mirrored", number(result.augmented)),
    ]
    facts += [(f"seconds, {name}", f"{side.seconds:.1f}") for name, side in result.sides.items()]
    facts += [(f"version of {name}", text) for name, text in result.versions.items()]
    return (Facts(tuple(facts)),)


def recheck_evaluation(result: EvaluationResult) -> Iterator[Difference]:
    comparison = result.comparison
    for name, side in result.sides.items():
        for score, (recorded, again) in _recomputed(side).items():
            if relative_gap(recorded, again) > ROUNDINGS * EPSILON:
                yield f"sides.{name} ({score})", again, recorded
        values = [row.accuracy for row in side.per_class if row.accuracy is not None]
        yield from near(f"sides.{name}.macc", sum(values) / max(len(values), 1), side.macc)
    if comparison is None:
        yield from differ("verdict", "evaluated", result.verdict)
        return
    rows = comparison.disagreements
    for name in ("panoptic_pixels", "label_pixels", "segments", "unexplained"):
        total = sum(getattr(row, name) for row in rows)
        yield from differ(f"comparison.{name}", total, getattr(comparison, name))
    yield from differ("comparison.images_that_differ", len(rows), comparison.images_that_differ)
    compared = "different" if comparison.unexplained else "equal"
    expected = "evaluated" if result.products else compared
    yield from differ("verdict", expected, result.verdict)
    for name, one in comparison.scores.items():
        shown = one.equivalence
        if not isinstance(shown, Missing):
            place = f"comparison.scores.{name}.equivalence.holds"
            yield from differ(place, shown.p_value < shown.alpha, shown.holds)


def of_evaluation(one: Evidence) -> list[Claim]:
    result = one.result
    command = result.command
    found = [
        claim(
            f"metric_code/{name}",
            f"Group scores of {SIDES.get(name, name)} are the means of their classes', and PQ is "
            "SQ x RQ",
            Relative(pairs, ROUNDINGS * EPSILON),
            f"largest relative gap; {ROUNDINGS} roundings of a float64 number",
            command,
        )
        for name, side in result.sides.items()
        if (pairs := _recomputed(side))
    ]
    comparison = result.comparison
    if comparison is None:
        return found
    if result.products:
        return found + _equivalences(result)
    found.append(
        claim(
            "inference/pixels",
            f"Both sides predict the same for {result.images:,} images",
            Findings(
                result.images,
                [row.image for row in comparison.disagreements if row.unexplained],
            ),
            "images with a pixel that differs although the reference's margin there is more than "
            "float32 rounding explains",
            command,
        )
    )
    if not result.random:
        found += _equivalences(result)
    return found


def _recomputed(side: SideScores) -> dict[str, list[float | None]]:
    """(recorded, recomputed) of each score that follows from the classes' scores."""
    rows = side.per_class
    pairs = {}
    for group, members in (("All", (True, False)), ("Things", (True,)), ("Stuff", (False,))):
        recorded = side.panoptic.get(group)
        if recorded is None:
            continue
        for key in ("pq", "sq", "rq"):
            found = [getattr(row, key) for row in rows if row.isthing in members]
            values = [value for value in found if value is not None]
            mean = sum(values) / len(values) if values else None
            pairs[f"{key} {group}"] = [getattr(recorded, key), mean]
    for row in rows:
        if row.pq is not None:
            pairs[f"pq {row.name}"] = [row.pq, row.sq * row.rq]
    values = [row.iou for row in rows if row.iou is not None]
    if values:
        pairs["miou"] = [side.miou, sum(values) / len(values)]
    return pairs


def _equivalences(result: EvaluationResult) -> list[Claim]:
    """Of a checkpoint that both sides loaded: each score is equivalent within its margin.

    Where both sides score 0 nothing is claimed: two models that find nothing are alike in that.
    """
    return [
        claim(
            f"tpu/{name}" if result.products else f"metric_converted/{name}",
            f"{name} {_of(result)} is equivalent within {100 * shown.margin:g} points",
            _equivalence(name, shown, [side.of(name) or 0.0 for side in result.sides.values()]),
            "p of two one-sided tests over paired images that the difference is as large as the "
            f"margin, at level {shown.alpha:g}; where they do not reject it, the images are too "
            "few to tell; scores within the margin are equivalent whatever made them, so that "
            "nothing is decided",
            result.command,
        )
        for name, one in result.comparison.scores.items()
        if not isinstance(shown := one.equivalence, Missing)
        and any(side.of(name) for side in result.sides.values())
    ]


def _of(result: EvaluationResult) -> str:
    """What is compared with what, in words that follow a score."""
    if not result.products:
        return "of the converted weights"
    passes = "pass" if result.products == 1 else "passes"
    return f"with products in {result.products} {passes} of bfloat16, as on a TPU,"


def _equivalence(name: str, shown: Equivalence, values: Sequence[float]) -> Measurement:
    """What a test for equivalence shows of a score; nothing where all scores are in the margin."""
    if max(values) <= shown.margin:
        reason = f"{name}: no score is above {100 * shown.margin:g} points"
        return Findings(1, [reason], otherwise="not decided")
    return Largest({name: shown.p_value}, shown.alpha, otherwise="not shown")


def _evaluated_rows(config: str, found: Sequence[Evidence]) -> list[scores.Row]:
    """A row for each evaluation and score; random weights are named as such."""
    rows = []
    for one in found:
        result = one.result
        weights = f"{'random' if result.random else 'converted'}, {result.weights}"
        if result.port_weights:
            weights += f"; TensorFlow's {result.port_weights}"
        for label in scores.SCORES.values():
            ends = [_score(result.sides.get(side), label) for side in ("torch", "tf")]
            if ends == [None, None]:
                continue
            judged = result.comparison and result.comparison.scores.get(label)
            nothing = ends == [0, 0]
            rows.append(
                (
                    Cell(label),
                    Cell(weights),
                    scores.published(config, label) if not result.random else Cell(""),
                    *map(scores.percent, ends),
                    scores.difference(None if None in ends else ends[1] - ends[0]),
                    Cell(NOTHING if nothing else _recorded_interval(judged)),
                    Cell("") if nothing else _recorded_equivalence(judged),
                )
            )
    return rows


def _score(side: SideScores | None, label: str) -> float | None:
    found = None if side is None else side.of(label)
    return None if found is None else 100 * found


def _recorded_interval(one: ScoreComparison | None) -> str:
    if one is None:
        return ""
    if isinstance(one.difference, Missing):
        return f"none: {one.difference.reason}"
    interval = one.difference.interval
    return f"{100 * interval.low:+.2f} to {100 * interval.high:+.2f}"


def _recorded_equivalence(one: ScoreComparison | None) -> Cell:
    found = None if one is None else one.equivalence
    if found is None or isinstance(found, Missing):
        return Cell("" if found is None else f"not testable: {found.reason}")
    return scores.equivalence(found.holds, found.margin, found.p_value)


def _class_plots(found: Sequence[Evidence]) -> list[Plot]:
    """Per-class scores of the two sides, of each evaluation that has both."""
    plots = []
    for one in found:
        if {"torch", "tf"} <= one.result.sides.keys():
            both = [one.result.sides[side].per_class for side in ("torch", "tf")]
            # A plot of classes that all have PQ 0 is a dot in a corner.
            key = "pq" if any(row.pq for side in both for row in side) else "iou"
            points = [
                (
                    row.name,
                    100 * getattr(row, key),
                    100 * getattr(other, key),
                    scores.THING if row.isthing else scores.STUFF,
                )
                for row, other in zip(*both, strict=True)
                if None not in (getattr(row, key), getattr(other, key))
            ]
            kind = "random" if one.result.random else "converted"
            plots += scores.scatter(points, f"{'PQ' if key == 'pq' else 'IoU'}, {kind} weights")
    return plots


def _values(one: Evidence) -> list[float | None]:
    sides = [] if one.result.random else one.result.sides.values()
    found = [side.of(name) for name in ("mIoU", "PQ All") for side in sides]
    return [100 * value for value in found if value is not None]


def _changes(before: Evidence, after: Evidence) -> Iterator[Change]:
    """Scores whose recorded intervals do not meet, and others that are not the same."""
    sides = before.result.sides, after.result.sides
    for side in sides[0].keys() & sides[1].keys():
        one, other = sides[0][side], sides[1][side]
        values = [
            {"mIoU": x.miou} | {f"PQ {group}": v.pq for group, v in x.panoptic.items()}
            for x in (one, other)
        ]
        for name in values[0].keys() & values[1].keys():
            old, new = values[0][name], values[1][name]
            if old == new:
                continue
            intervals = [x.interval(name) for x in (one, other)]
            below = None not in intervals and intervals[1].high < intervals[0].low
            reason = "its interval lies below the earlier one" if below else ""
            texts = (f"{100 * old:.2f}", f"{100 * new:.2f}")
            yield Change("score", f"{side}, {name}", *texts, below, reason)


def _subject(result: EvaluationResult) -> Subject:
    """What tells such a result from others, beside the configuration."""
    asked = ("layout", "split", "images", "test_size", "augmented", "products")
    return {
        "sides": sorted(result.sides),
        **picked(result, (*WEIGHTS, *asked)),
        "data": PurePath(result.data).name,
    }


KIND = Kind(
    result=EvaluationResult,
    name="evaluation",
    title="Evaluation",
    detail=lambda result: f" on {result.split}",
    subject=_subject,
    rungs={"": "inference"},
    chapter=chapter,
    recheck=recheck_evaluation,
    given={
        **dict.fromkeys(
            (
                *("config", "config_sha256", "weights", "weights_sha256", "port_weights"),
                *("port_weights_sha256", "data", "layout", "split", "images", "test_size"),
                *("augmented", "products", "versions", "pictures"),
            ),
            "what was evaluated",
        ),
        **dict.fromkeys(
            (
                *("sides.*.miou_2021", "sides.*.fwiou", "sides.*.pacc", "sides.*.intervals"),
                *("sides.*.per_class.*.id", "sides.*.per_class.*.name"),
                *("sides.*.per_class.*.isthing", "comparison.of", "comparison.pixels"),
                "sides.*.panoptic.*.classes",
                *("comparison.agreement", "comparison.disagreements.*.image"),
                "comparison.scores",
            ),
            "classes, and what was resampled from images that are not in the recording",
        ),
        **dict.fromkeys(("seconds", "sides.*.seconds"), "times"),
    },
    derived=of_evaluation,
    records_claims=False,
    changes=_changes,
    special=Special(
        pictures=True,
        scored=Scored(rows=_evaluated_rows, plots=_class_plots, values=_values),
    ),
)
