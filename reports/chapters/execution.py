"""The sections of an execution: a TPU's training step, run on virtual processors and judged."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from parity.claims import Claim, all_hold
from parity.results import Result
from reports import words
from reports.checks import Difference, differ, differing_verdict
from reports.document import Cell, Chapter, Column, Facts, Section, Table, number
from reports.evidence import Evidence
from reports.kind import Kind, Special
from reports.subjects import Subject, picked

PLANTED = "wrong_reductions"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How losses were divided over replicas, and what the updates were held to."""

    name: str
    beside: str
    verdict: str
    compile_seconds: float
    run_seconds: float


@dataclass(frozen=True, kw_only=True)
class WrongReduction:
    """A mistake planted in the program: the claims that fail, and what they say it is."""

    id: str
    what: str
    found_by: tuple[str, ...]
    cause: str


@dataclass(frozen=True, kw_only=True)
class RoundedProducts:
    """How far updates are from float64, relative, whose products of float32 are made in so many
    passes of bfloat16; 0 passes: as processors make them.

    Args:
        losses: of the total loss, at every update.
        norm, gradients: of the first update's gradients, their norm and all together.
        weights: of all weights together, after the last update.
    """

    passes: int
    losses: tuple[float, ...]
    norm: float
    gradients: float
    weights: float


@dataclass(frozen=True, kw_only=True)
class ExecutionResult(Result):
    """The step of several replicas, executed; `image_size` is (height, width)."""

    schema: ClassVar[str] = "maskformer-replication/execution/1"

    config: str
    precision: str
    image_size: tuple[int, int]
    replicas: int
    per_core_batch: int
    steps: int
    targets: int
    micro_batches: int = 1
    rules: tuple[Rule, ...]
    wrong_reductions: tuple[WrongReduction, ...] = ()
    rounded_products: tuple[RoundedProducts, ...] = ()


def chapter(one: Evidence, claims: Sequence[Claim]) -> Chapter:
    """The chapter of an execution: all that the result holds."""
    result = one.result
    height, width = result.image_size
    facts = (
        ("config", result.config),
        ("precision", result.precision),
        ("image size", f"{height}x{width}"),
        ("replicas", number(result.replicas)),
        ("images per replica", number(result.per_core_batch)),
        ("parts that they are computed in", number(result.micro_batches)),
        ("updates", number(result.steps)),
        ("targets an image is padded to", number(result.targets)),
    )
    sections = [Section("What it was held to", (_rules(result.rules),))]
    if result.wrong_reductions:
        sections.append(Section("Mistakes planted in it", (_planted(result.wrong_reductions),)))
    if result.rounded_products:
        sections.append(Section("Products as a TPU makes them", (_rounded(result),)))
    return words.chapter(
        one,
        claims,
        _headline(result),
        *sections,
        Section("How it was run", (Facts(facts),)),
    )


def _headline(result: ExecutionResult) -> str:
    text = f"{number(result.steps)} updates of {number(result.replicas)} replicas, executed"
    failing = [rule for rule in result.rules if rule.verdict != "holds"]
    if failing:
        return f"{text}: not those of {', '.join(rule.beside for rule in failing)}."
    return f"{text}: those of {' and of '.join(rule.beside for rule in result.rules)}."


def _rules(rules: Sequence[Rule]) -> Table:
    rows = tuple(
        (
            Cell(rule.name),
            Cell(rule.beside),
            Cell(rule.verdict, tone="good" if rule.verdict == "holds" else "bad"),
            Cell(f"{rule.compile_seconds:.0f}", rule.compile_seconds),
            Cell(f"{rule.run_seconds:.0f}", rule.run_seconds),
        )
        for rule in rules
    )
    columns = (
        Column("Losses are divided by", code=True),
        Column("Updates should be those of"),
        Column("Verdict"),
        Column("Compiled in, s", numeric=True),
        Column("Executed in, s", numeric=True),
    )
    return Table("The program executed on virtual processors, all-reduces included", columns, rows)


def _planted(planted: Sequence[WrongReduction]) -> Table:
    rows = tuple(
        (
            Cell(wrong.what),
            Cell(
                "named" if wrong.cause == wrong.what else "found" if wrong.found_by else "missed",
                tone="good" if wrong.cause == wrong.what else "bad",
            ),
            Cell(", ".join(wrong.found_by)),
        )
        for wrong in planted
    )
    columns = (
        Column("Mistake", prose=True),
        Column("It is"),
        Column("Claims that fail", code=True),
    )
    return Table("Mistakes in the reduction, planted in the lowered program", columns, rows)


def _rounded(result: ExecutionResult) -> Table:
    rows = tuple(
        (
            Cell(number(one.passes) if one.passes else "as they are", one.passes),
            *(
                Cell(number(value), value)
                for value in (one.losses[0], one.norm, one.gradients, max(one.losses), one.weights)
            ),
        )
        for one in result.rounded_products
    )
    columns = (
        Column("Passes of bfloat16", numeric=True),
        Column("Loss of the first update", numeric=True),
        Column("Norm of its gradients", numeric=True),
        Column("Its gradients", numeric=True),
        Column("Loss of any update", numeric=True),
        Column("Weights after the last", numeric=True),
    )
    return Table(
        "Relative gaps from float64, where products of float32 are made of parts of bfloat16",
        columns,
        rows,
    )


def recheck_execution(result: ExecutionResult) -> Iterator[Difference]:
    yield from differing_verdict(result, "holds", "fails")
    for index, rule in enumerate(result.rules):
        own = [one for one in result.claims if one.id.startswith(f"{rule.name}/")]
        said = "holds" if all_hold(own) else "fails"
        yield from differ(f"rules[{index}] ({rule.name}).verdict", said, rule.verdict)
    if result.wrong_reductions:
        measured = result.claimed(PLANTED).measured
        missed = [one.id for one in result.wrong_reductions if one.cause != one.what]
        yield from differ(f"claims ({PLANTED}).measured.found", missed, list(measured.found))
        yield from differ(
            f"claims ({PLANTED}).measured.of", len(result.wrong_reductions), measured.of
        )


def _detail(result: ExecutionResult) -> str:
    return f", {result.precision}, {number(result.replicas)} replicas"


def _subject(result: ExecutionResult) -> Subject:
    """What tells such a result from others, beside the configuration."""
    asked = ("precision", "image_size", "replicas", "per_core_batch", "steps", "targets")
    return picked(result, (*asked, "micro_batches"))


KIND = Kind(
    result=ExecutionResult,
    name="execution",
    title="TPU program executed",
    detail=_detail,
    subject=_subject,
    rungs={"": "tpu"},
    chapter=chapter,
    recheck=recheck_execution,
    given={
        **dict.fromkeys(
            (
                *("config", "precision", "image_size", "replicas", "per_core_batch", "steps"),
                *("targets", "micro_batches", "rules.*.name", "rules.*.beside"),
            ),
            "what was executed",
        ),
        **dict.fromkeys(("rules.*.compile_seconds", "rules.*.run_seconds"), "times"),
        **dict.fromkeys(
            ("wrong_reductions.*.id", "wrong_reductions.*.what", "wrong_reductions.*.found_by"),
            "what was planted, and which claims it failed",
        ),
        **dict.fromkeys(
            (
                *("rounded_products.*.passes", "rounded_products.*.losses.*"),
                *("rounded_products.*.norm", "rounded_products.*.gradients"),
                "rounded_products.*.weights",
            ),
            "what rounded products make of the updates",
        ),
    },
    derived=None,
    records_claims=True,
    changes=None,
    special=Special(),
)
