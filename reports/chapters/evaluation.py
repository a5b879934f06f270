"""The sections of an evaluation: scores with intervals, and how far two sides agree."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from markupsafe import Markup, escape

from parity.claims import Claim, claim
from parity.measurements import Findings, Largest, Relative
from parity.results import EVALUATION
from reports import words as claims
from reports.changes import Change
from reports.checks import EPSILON, ROUNDINGS, Content, Difference, differ
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
from reports.subjects import WEIGHTS, picked

SCORES = (("mIoU", "miou"), ("fwIoU", "fwiou"), ("mACC", "macc"), ("pACC", "pacc"))
ROW, LEFT, RIGHT, TOP = 26, 124, 16, 34  # of the plot of intervals, in SVG units
NARROW, WIDE = 360, 760

Result = Mapping[str, Any]


def chapter(one: Evidence, recorded: Sequence[Mapping[str, Any]]) -> Chapter:
    """An evaluation's chapter: all that the result holds."""
    result = one.content
    compared = []
    if "comparison" in result:
        compared = [
            Section("The two sides compared", _comparison(result)),
            Section("Images that differ", _differing(result["comparison"])),
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


def _random(result: Result) -> bool:
    return result["weights"].startswith("seeded:")


def _headline(result: Result) -> str:
    parts = []
    for name, side in result["sides"].items():
        panoptic = side.get("panoptic", {}).get("All")
        quality = f"PQ {_percent(panoptic['pq'])}, " if panoptic else ""
        parts.append(f"{SIDES.get(name, name)}: {quality}mIoU {_percent(side['miou'])}")
    text = f"{'; '.join(parts)} ({number(result['images'])} images)"
    if "comparison" in result:
        unexplained = result["comparison"]["unexplained"]
        text += f"; {number(unexplained)} pixels differ by more than rounding explains"
    if _random(result):
        text += ". The weights are random numbers: scores tell the sides apart, not quality"
    return f"{text}."


def _score_rows(result: Result) -> list[tuple[str, str, list[float]]]:
    """Label, name of the interval ("" where none is made), and each side's value."""
    sides = list(result["sides"].values())
    rows = []
    for group in sides[0].get("panoptic", {}):
        for key in ("pq", "sq", "rq"):
            values = [side["panoptic"][group][key] for side in sides]
            label = f"{key.upper()} {group}"
            rows.append((label, label if key == "pq" else "", values))
    return rows + [(label, label, [side[key] for side in sides]) for label, key in SCORES]


def _interval(side: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    found = side["intervals"].get(name, {})
    return (found["low"], found["high"]) if "low" in found else None


def _scores(result: Result) -> tuple[Block, ...]:
    sides = result["sides"]
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
    found = [x for side in sides.values() for x in side["intervals"].values() if "low" in x]
    if found:
        confidence, resamples = found[0]["confidence"], found[0]["resamples"]
        caption += f", {100 * confidence:.0f} %, {number(resamples)} resamples"
    blocks: list[Block] = []
    if plot := _interval_plot(result):
        blocks.append(plot)
    missing = {
        f"{name}, {score}: no interval, {one['reason']}."
        for name, side in sides.items()
        for score, one in side["intervals"].items()
        if "reason" in one
    }
    blocks.append(Table(caption, tuple(columns), tuple(rows)))
    return (*blocks, Items(tuple(sorted(missing)))) if missing else tuple(blocks)


def _interval_plot(result: Result) -> Figure | None:
    """Each score with an interval as a dot on its line, one row per side; None without any."""
    rows = [
        (f"{label}, {name}", value, bounds)
        for label, interval, values in _score_rows(result)
        for (name, side), value in zip(result["sides"].items(), values, strict=True)
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


def _comparison(result: Result) -> tuple[Block, ...]:
    found = result["comparison"]
    facts = [
        ("images that differ", f"{number(found['images_that_differ'])} of {result['images']:,}"),
        ("pixels compared", number(found["pixels"])),
        ("panoptic pixels that differ", number(found["panoptic_pixels"])),
        ("label pixels that differ", number(found["label_pixels"])),
        ("segments without a partner", number(found["segments"])),
        ("pixels that rounding does not explain", number(found["unexplained"])),
    ]
    first, second = result["sides"]
    facts += [
        (f"{name} of {SIDES[second]} with {SIDES[first]} as the truth", f"{100 * value:.3f} %")
        for name, value in found["agreement"].items()
    ]
    rows = tuple(_compared(name, one) for name, one in found["scores"].items())
    columns = (
        Column("Score"),
        Column("Difference", numeric=True),
        Column("Interval"),
        Column("p", numeric=True),
        Column("Equivalence"),
    )
    caption = f"{named(found['of'])} on the same images, in points; intervals by a paired bootstrap"
    blocks: list[Block] = [Facts(tuple(facts)), Table(caption, columns, rows)]
    if _random(result):
        blocks.append(
            Text(
                "With random weights most scores are near 0 on both sides, so that equal scores "
                "show little. The agreement of the two sides with each other shows more."
            )
        )
    return tuple(blocks)


def _compared(name: str, one: Mapping[str, Any]) -> tuple[Cell, ...]:
    difference, equivalence = one["difference"], one["equivalence"]
    if "reason" in difference:
        return Cell(name), Cell(""), Cell(f"none: {difference['reason']}"), Cell(""), Cell("")
    interval = difference["interval"]
    bounds = f"{_percent(interval['low'], True)} to {_percent(interval['high'], True)}"
    if "reason" in equivalence:
        judged = Cell(f"not testable: {equivalence['reason']}")
    else:
        shown = equivalence["holds"]
        margin = f"within {100 * equivalence['margin']:g} points"
        judged = Cell(
            f"{'shown' if shown else 'not shown'} {margin} (p {number(equivalence['p_value'])})",
            tone="good" if shown else "",
        )
    return (
        Cell(name),
        Cell(_percent(interval["value"], True), interval["value"]),
        Cell(bounds),
        Cell(number(difference["p_value"]), difference["p_value"]),
        judged,
    )


def _differing(comparison: Mapping[str, Any]) -> tuple[Block, ...]:
    if not comparison["disagreements"]:
        return (Text("No image differs in any pixel."),)
    keys = ("panoptic_pixels", "label_pixels", "segments", "unexplained")
    rows = tuple(
        (
            Cell(row["image"], row["image"]),
            *(
                Cell(number(row[key]), row[key], "bad" if key == "unexplained" and row[key] else "")
                for key in keys
            ),
        )
        for row in comparison["disagreements"]
    )
    titles = ("Panoptic pixels", "Label pixels", "Segments", "Not explained by rounding")
    columns = (Column("Image", code=True), *(Column(title, numeric=True) for title in titles))
    return (Table("What differs in each image", columns, rows, interactive=True),)


def _classes(result: Result) -> Table:
    sides = result["sides"]
    panoptic = any("panoptic" in side for side in sides.values())
    keys = ("pq", "sq", "rq", "iou") if panoptic else ("iou", "accuracy")
    titles = {"pq": "PQ", "sq": "SQ", "rq": "RQ", "iou": "IoU", "accuracy": "accuracy"}
    columns = [Column("Class"), Column("Kind", choices=True)]
    columns += [Column(f"{name} {titles[key]}", numeric=True) for name in sides for key in keys]
    rows = []
    for members in zip(*(side["per_class"] for side in sides.values()), strict=True):
        figures = [row.get(key) for row in members for key in keys]
        kind = "thing" if members[0]["isthing"] else "stuff"
        cells = [Cell(members[0]["name"], members[0]["name"]), Cell(kind, kind)]
        cells += [
            Cell("", "") if figure is None else Cell(_percent(figure), figure) for figure in figures
        ]
        rows.append(tuple(cells))
    caption = "Scores of every class in percent; empty: does not occur"
    return Table(caption, tuple(columns), tuple(rows), interactive=True)


def _pictures(one: Evidence) -> tuple[Block, ...]:
    """The pictures that were kept with the result; the names of those that were not."""
    result = one.content
    names = result.get("pictures", ())
    if not names:
        return (Text("None were drawn."),)
    which = "that differ most" if "comparison" in result else "with the lowest scores"
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


def _run(result: Result) -> tuple[Block, ...]:
    short, long = result["test_size"]
    facts = [
        ("command", result["command"]),
        ("config, sha256", f"{result['config']}, {result['config_sha256']}"),
        ("weights, sha256", f"{result['weights']}, {result['weights_sha256']}"),
        *(
            [
                (
                    "TensorFlow's own, sha256",
                    f"{result['port_weights']}, {result['port_weights_sha256']}",
                )
            ]
            if "port_weights" in result
            else []
        ),
        ("data", f"{result['data']}, {result['split']} ({result['layout']})"),
        ("size of images", f"short side {short}, long side at most {long} pixels"),
        ("multi-scale and mirrored", number(result["augmented"])),
    ]
    facts += [
        (f"seconds, {name}", f"{side['seconds']:.1f}") for name, side in result["sides"].items()
    ]
    facts += [(f"version of {name}", text) for name, text in result["versions"].items()]
    return (Facts(tuple(facts)),)


def recheck_evaluation(content: Content) -> Iterator[Difference]:
    comparison = content.get("comparison")
    if comparison is None:
        yield from differ("verdict", "evaluated", content["verdict"])
        return
    rows = comparison["disagreements"]
    for name in ("panoptic_pixels", "label_pixels", "segments", "unexplained"):
        yield from differ(f"comparison.{name}", sum(row[name] for row in rows), comparison[name])
    yield from differ("comparison.images_that_differ", len(rows), comparison["images_that_differ"])
    expected = "different" if comparison["unexplained"] else "equal"
    yield from differ("verdict", expected, content["verdict"])
    for name, one in comparison["scores"].items():
        shown = one["equivalence"]
        if "holds" in shown:
            place = f"comparison.scores.{name}.equivalence.holds"
            yield from differ(place, shown["p_value"] < shown["alpha"], shown["holds"])


def of_evaluation(one: Evidence) -> list[Claim]:
    content = one.content
    command = content["command"]
    found = [
        claim(
            f"metric_code/{name}",
            f"Group scores of {SIDES.get(name, name)} are the means of their classes', and PQ is "
            "SQ x RQ",
            Relative(pairs, ROUNDINGS * EPSILON),
            f"largest relative gap; {ROUNDINGS} roundings of a float64 number",
            command,
        )
        for name, side in content["sides"].items()
        if (pairs := _recomputed(side))
    ]
    comparison = content.get("comparison")
    if comparison is None:
        return found
    found.append(
        claim(
            "inference/pixels",
            f"Both sides predict the same for {content['images']:,} images",
            Findings(
                content["images"],
                [row["image"] for row in comparison["disagreements"] if row["unexplained"]],
            ),
            "images with a pixel that differs although the reference's margin there is more than "
            "float32 rounding explains",
            command,
        )
    )
    if not content["weights"].startswith("seeded:"):
        found += _equivalences(content)
    return found


def _recomputed(side: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """(recorded, recomputed) of each score that follows from the classes' scores."""
    rows = side["per_class"]
    pairs = {}
    for group, members in (("All", (True, False)), ("Things", (True,)), ("Stuff", (False,))):
        recorded = side.get("panoptic", {}).get(group)
        if recorded is None:
            continue
        for key in ("pq", "sq", "rq"):
            values = [
                row[key] for row in rows if row["isthing"] in members and row[key] is not None
            ]
            mean = sum(values) / len(values) if values else None
            pairs[f"{key} {group}"] = [recorded[key], mean]
    for row in rows:
        if row.get("pq") is not None:
            pairs[f"pq {row['name']}"] = [row["pq"], row["sq"] * row["rq"]]
    values = [row["iou"] for row in rows if row["iou"] is not None]
    if values:
        pairs["miou"] = [side["miou"], sum(values) / len(values)]
    return pairs


def _equivalences(content: Mapping[str, Any]) -> list[Claim]:
    """Of a checkpoint that both sides loaded: each score is equivalent within its margin.

    Where both sides score 0 nothing is claimed: two models that find nothing are alike in that.
    """
    return [
        claim(
            f"metric_converted/{name}",
            f"{name} of the converted weights is equivalent within {100 * shown['margin']:g} "
            "points",
            Largest({name: shown["p_value"]}, shown["alpha"], otherwise="not shown"),
            "p of two one-sided tests over paired images that the difference is as large as the "
            f"margin, at level {shown['alpha']:g}; where they do not reject it, the images are too "
            "few to tell",
            content["command"],
        )
        for name, one in content["comparison"]["scores"].items()
        if "holds" in (shown := one["equivalence"]) and any(_scored(content, name))
    ]


def _scored(content: Mapping[str, Any], name: str) -> Iterator[float]:
    """What each side scored."""
    for side in content["sides"].values():
        if name == "mIoU":
            yield side["miou"]
        else:
            yield side["panoptic"][name.removeprefix("PQ ")]["pq"]


def _evaluated_rows(config: str, found: Sequence[Evidence]) -> list[scores.Row]:
    """A row for each evaluation and score; random weights are named as such."""
    rows = []
    for one in found:
        content = one.content
        random = content["weights"].startswith("seeded:")
        weights = f"{'random' if random else 'converted'}, {content['weights']}"
        if "port_weights" in content:
            weights += f"; TensorFlow's {content['port_weights']}"
        for label in scores.SCORES.values():
            ends = [_score(content["sides"].get(side), label) for side in ("torch", "tf")]
            if ends == [None, None]:
                continue
            judged = content.get("comparison", {}).get("scores", {}).get(label, {})
            if ends == [0, 0]:
                judged = {"difference": {"reason": "both score 0, which says nothing"}}
            rows.append(
                (
                    Cell(label),
                    Cell(weights),
                    scores.published(config, label) if not random else Cell(""),
                    *map(scores.percent, ends),
                    scores.difference(None if None in ends else ends[1] - ends[0]),
                    Cell(_recorded_interval(judged.get("difference", {}))),
                    _recorded_equivalence(judged.get("equivalence", {})),
                )
            )
    return rows


def _score(side: Mapping[str, Any] | None, label: str) -> float | None:
    if side is None:
        return None
    if label == "mIoU":
        return 100 * side["miou"]
    group = side.get("panoptic", {}).get(label.removeprefix("PQ "))
    return None if group is None else 100 * group["pq"]


def _recorded_interval(difference: Mapping[str, Any]) -> str:
    if "reason" in difference:
        return f"none: {difference['reason']}"
    interval = difference.get("interval")
    if interval is None:
        return ""
    return f"{100 * interval['low']:+.2f} to {100 * interval['high']:+.2f}"


def _recorded_equivalence(one: Mapping[str, Any]) -> Cell:
    if "holds" not in one:
        return Cell(f"not testable: {one['reason']}" if "reason" in one else "")
    return scores.equivalence(one["holds"], one["margin"], one["p_value"])


def _class_plots(found: Sequence[Evidence]) -> list[Plot]:
    """Per-class scores of the two sides, of each evaluation that has both."""
    plots = []
    for one in found:
        if {"torch", "tf"} <= one.content["sides"].keys():
            both = [one.content["sides"][side]["per_class"] for side in ("torch", "tf")]
            # A plot of classes that all have PQ 0 is a dot in a corner.
            key = "pq" if any(row.get("pq") for side in both for row in side) else "iou"
            points = [
                (
                    row["name"],
                    100 * row[key],
                    100 * other[key],
                    scores.THING if row["isthing"] else scores.STUFF,
                )
                for row, other in zip(*both, strict=True)
                if row.get(key) is not None and other.get(key) is not None
            ]
            kind = "random" if one.content["weights"].startswith("seeded:") else "converted"
            plots += scores.scatter(points, f"{'PQ' if key == 'pq' else 'IoU'}, {kind} weights")
    return plots


def _values(one: Evidence) -> list[float | None]:
    if _random(one.content):
        return []
    sides = one.content["sides"].values()
    values = [100 * side["miou"] for side in sides]
    return values + [100 * side["panoptic"]["All"]["pq"] for side in sides if "panoptic" in side]


def _changes(before: Evidence, after: Evidence) -> Iterator[Change]:
    """Scores whose recorded intervals do not meet, and others that are not the same."""
    sides = before.content["sides"], after.content["sides"]
    for side in sides[0].keys() & sides[1].keys():
        one, other = sides[0][side], sides[1][side]
        values = [
            {"mIoU": x["miou"]} | {f"PQ {k}": v["pq"] for k, v in x.get("panoptic", {}).items()}
            for x in (one, other)
        ]
        for name in values[0].keys() & values[1].keys():
            old, new = values[0][name], values[1][name]
            if old == new:
                continue
            intervals = [x["intervals"].get(name, {}) for x in (one, other)]
            below = all("low" in x for x in intervals) and (
                intervals[1]["high"] < intervals[0]["low"]
            )
            reason = "its interval lies below the earlier one" if below else ""
            texts = (f"{100 * old:.2f}", f"{100 * new:.2f}")
            yield Change("score", f"{side}, {name}", *texts, below, reason)


def _subject(content: Mapping[str, Any]) -> dict[str, Any]:
    """What tells such a result from others, beside the configuration."""
    asked = ("layout", "split", "images", "test_size", "augmented")
    return {
        "sides": sorted(content["sides"]),
        **picked(content, (*WEIGHTS, *asked)),
        "data": PurePath(content["data"]).name,
    }


KIND = Kind(
    schema=EVALUATION,
    name="evaluation",
    title="Evaluation",
    detail=lambda content: f" on {content['split']}",
    subject=_subject,
    rungs={"": "inference"},
    chapter=chapter,
    recheck=recheck_evaluation,
    derived=of_evaluation,
    records_claims=False,
    changes=_changes,
    special=Special(
        pictures=True,
        scored=Scored(rows=_evaluated_rows, plots=_class_plots, values=_values),
    ),
)
