"""How a pair is audited, and what an audit that its caller extends is given."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from parity.auditing.training import Training
from parity.claims import Claim
from parity.judge import BFLOAT16
from parity.steps import ENDLESS, Budget
from parity.trace import Tap

if TYPE_CHECKING:
    from parity.auditing.result import AuditResult, Input, Measured
    from parity.auditing.unfinished import Unfinished
    from parity.localise import Localisation

NOT_VERIFIED = (
    "losses, gradients and weight updates",
    "inputs other than these",
    "data pipelines, and what is made of the outputs",
)


@dataclass
class Runs:
    """The outputs of all runs of an audit, as NumPy arrays.

    Args:
        reference, reference32: the reference's, in float64 and in float32.
        moved: what `Options.kept` kept of the runs with moved roundings, float64.
        port, port32: the port's, in float64, and in float32 by execution.
    """

    reference: Any
    moved: Sequence[Any]
    reference32: Any = None
    port: Any = None
    port32: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """How a pair is audited.

    Args:
        executions: how the port is run in float32, None for every way; without any, only float64
            is compared. `parity.judge.BFLOAT16` among them is another precision: both sides
            multiply in bfloat16.
        isolate: run every module alone on the reference's inputs, even where nothing differs.
        only: a module's path or a pattern: compare what is at and below it, and look for no place.
        capture_effect: measure what reading the taps changes.
        decided: tells the taps that are scores of classes, along the last axis, whose choices must
            be the same in float32.
        training: how both sides are trained, whose step is compared as well.
        places: finds the places at fault, from the measured reference
            (`parity.auditing.reference.Reference`), the port's float64 outputs and what was
            measured; by default every module is judged alone.
        claims: judges more, from the outputs of all runs; `kept` is what it needs of the outputs of
            runs with moved roundings.
        search: how long causes are searched for.
        so_far: what is found while it is found, kept on disk.
        first: is told the result of float64 and the first execution in float32 as soon as these are
            measured, where nothing differs in float64.
        command: measures the result again.
        inputs: a description of the inputs, by default made from them.
        provenance: what only the caller knows of the numbers.
        not_verified: what the audit leaves open, a sentence each.
    """

    executions: Sequence[str] | None = None
    isolate: bool = False
    only: str | None = None
    capture_effect: bool = False
    decided: Callable[[Tap], bool] | None = None
    training: Training | None = None
    places: "Callable[[Any, Any, Measured], list[Localisation]] | None" = None
    claims: Callable[[Runs], Sequence[Claim]] | None = None
    kept: Callable[[Any], Any] | None = None
    search: Budget = ENDLESS
    so_far: "Unfinished | None" = None
    first: "Callable[[AuditResult], None] | None" = None
    command: str = "parity.audits.audit(pair)"
    inputs: "Sequence[Input] | None" = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    not_verified: Sequence[str] = NOT_VERIFIED

    @property
    def float32(self) -> bool:
        """Whether float32 is compared as well."""
        return self.executions is None or any(one != BFLOAT16 for one in self.executions)

    @property
    def bfloat16(self) -> bool:
        """Whether bfloat16 is, which is an execution that is asked for."""
        return BFLOAT16 in (self.executions or ())
