"""What an audit says as soon as both sides have run in float64 and in float32."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parity.auditing.result import AuditResult


def first_verdict(result: "AuditResult", more: str = "") -> str:
    """The verdict so far in one line, `more` at its end."""
    holding = sum(one.holds for one in result.claims)
    ways = ", ".join(result.float32)
    return (
        f"first verdict: {result.verdict} ({holding} of {len(result.claims)} claims hold, forward, "
        f"in float64 and float32, {ways}{more})"
    )
