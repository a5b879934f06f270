"""The claim on modules that run alone in bfloat16."""

from collections.abc import Sequence

from parity.auditing.options import Options
from parity.auditing.pair import Built, cast
from parity.auditing.port import Port, recorder_of, usable
from parity.auditing.reference import Reference
from parity.claims import Claim, Place, margin_claim
from parity.judge import MIXED, Verdict
from parity.judging.alone import IDENTITY, Side, Sides, judged_in_bfloat16


def bfloat16_claims(
    reference: Reference, port: Port, options: Options, theirs: Sequence[Side] = ()
) -> list[Claim]:
    """That no module of the port alone is less exact in bfloat16 than the reference's own, but for
    one rounding of its result; where one is, the first such module, and why.

    `theirs` are `reference_sides`, where several ports are judged. No claim where no module can run
    alone on both sides.
    """
    sides = Sides(
        *(theirs or reference_sides(reference)),
        _ours(reference, port.float64),
        _ours(reference, port.bfloat16),
    )
    found = list(judged_in_bfloat16(sides, reference.trace))
    verdicts: dict[str, Verdict] = {v.key: v for one in found for v in one.verdicts}
    if not verdicts:
        return []
    one = margin_claim(
        IDENTITY,
        "Alone on the same inputs, no module is less exact in bfloat16 than the reference's own",
        verdicts,
        "largest error in units of its limit, of results in bfloat16 without the one rounding that "
        "they take; the limit is 4 x the same error of the bfloat16 reference, or its error in "
        "float32 where that is larger",
        options.command,
    )
    wrong = next((each for each in found if each.failing), None)
    if wrong is None:
        return [one]
    keys = ", ".join(each.key for each in wrong.failing[:3])
    return [one.located(Place(wrong.path, f"{wrong.path}: {keys}"), wrong.cause)]


def reference_sides(reference: Reference) -> tuple[Side, Side, Side]:
    """The reference in float64, float32 and bfloat16, each after a run."""
    own = Side(reference.recorder, reference.built.precision)
    return own, _theirs(reference, "float32"), _theirs(reference, MIXED)


def _theirs(reference: Reference, dtype: str) -> Side:
    """The reference in another precision, after a run."""
    built = reference.built_in(dtype)
    recorder = reference.recorder_in(dtype)
    inputs = cast(reference.pair.inputs, dtype)
    with built.precision():
        recorder(inputs, lambda tap: None)
    return Side(recorder, built.precision)


def _ours(reference: Reference, built: Built) -> Side:
    """The port in one precision, after a run."""
    execution = built.framework.EXECUTIONS[0]
    recorder, inputs = recorder_of(reference, built, execution, None)
    with usable(built, execution):
        recorder(inputs, lambda tap: None)
    return Side(recorder, built.precision)
