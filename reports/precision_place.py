"""Where a port that computes the same function is less exact than the reference in float32."""

from dataclasses import dataclass

from parity.auditing.result import AuditResult
from parity.judge import narrower


@dataclass(frozen=True)
class LessExact:
    """The first tensor, in the order of the forward pass, that only float32 executions fail.

    Args:
        key, path: of the tensor, and of its module.
        executions: those in which it fails; `others` those in which it holds.
        ratio: its largest error there, in units of the float32 reference's own.
        error: the largest of those errors, relative.
    """

    key: str
    path: str
    executions: tuple[str, ...]
    others: tuple[str, ...]
    ratio: float
    error: float

    @property
    def cause(self) -> str:
        """What the executions say of the cause."""
        text = f"less exact in float32 alone ({', '.join(self.executions)}"
        text += f", not {', '.join(self.others)}" if self.others else ""
        text = f"{text}): {self.ratio:.3g} times as far from float64 as the reference"
        kind = narrower(self.error)
        return f"{text}, by an error as of numbers in {kind}" if kind else text


def less_exact(result: AuditResult) -> LessExact | None:
    """The first layer of an audit's result that fails in float32; None where none does.

    None too where it fails in float64: there the function is another, and float32 follows.
    """
    for layer in result.layers:
        failed = [name for name, one in layer.float32.items() if not one.passed]
        if not layer.float64.passed:
            return None
        if failed:
            return LessExact(
                layer.key,
                layer.path,
                tuple(failed),
                tuple(name for name in layer.float32 if name not in failed),
                max(layer.float32[name].ratio for name in failed),
                max(layer.float32[name].e_port for name in failed),
            )
    return None
