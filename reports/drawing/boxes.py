"""The network as boxes in boxes: each module with its own error, and what it hands to others."""

from collections.abc import Mapping, Sequence

from parity.judge import Verdict
from parity.trace import module_of
from reports.document import Box, Boxes, Hand, number
from reports.drawing.layer_map import Module

HANDED = ":handed to "
CAPTION = (
    "Modules in their order, one in another as the model has them, each with its error as a share "
    "of its limit. What a module hands to another is judged when it runs alone."
)


def boxes(
    ways: Mapping[str, Sequence[Module]],
    handed: Mapping[str, Verdict],
    faults: Mapping[str, str],
) -> Boxes | None:
    """All modules below the whole model; None where there is none.

    Args:
        ways: by what was measured, such as "own error, forward", the modules with it.
        handed: verdicts on what a module hands to another when it runs alone, by key
            `MODULE:handed to TENSOR`.
        faults: by module, the tensor at which it is at fault, where modules were not all run alone.
    """
    measured = {name: {module.path: module for module in modules} for name, modules in ways.items()}
    paths = dict.fromkeys(path for by_path in measured.values() for path in by_path)
    hands: dict[str, list[Hand]] = {}
    for key, verdict in handed.items():
        path = module_of(key)
        hands.setdefault(path, []).append(_hand(path, key, verdict))
    for path, edge in faults.items():
        if path not in hands and module_of(edge) != path:
            hands[path] = [Hand(edge.removeprefix(f"{path}."), "differs", "bad")]
    paths |= dict.fromkeys(hands)
    if not paths:
        return None
    below: dict[str, list[str]] = {}
    for path in _with_parents(paths):
        if path != "model":
            below.setdefault(path.rpartition(".")[0] or "model", []).append(path)

    def box(path: str) -> Box:
        found = {name: by_path[path] for name, by_path in measured.items() if path in by_path}
        children = tuple(box(child) for child in below.get(path, ()))
        own = tuple(hands.get(path, ()))
        tones = [_tone(module) for module in found.values()] + [one.tone for one in own]
        if path in faults:
            tones.append("bad")
        tone = next((one for one in ("bad", "inherited") if one in tones), "good")
        inside = any(one.tone == "bad" or one.open for one in children)
        return Box(
            path.rpartition(".")[2],
            tone if found or own else "",
            tuple((name, _share(module)) for name, module in found.items()),
            own,
            children,
            inside or any(one.tone == "bad" for one in own),
        )

    return Boxes(CAPTION, box("model"))


def _with_parents(paths: Mapping[str, None]) -> list[str]:
    """All paths and those around them, in order."""
    found: dict[str, None] = {}
    for path in paths:
        parts = path.split(".")
        found |= dict.fromkeys(".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return list(found)


def _hand(path: str, key: str, verdict: Verdict) -> Hand:
    text = verdict.problem or f"{number(verdict.value)}, limit {number(verdict.threshold.value)}"
    receiver = key.partition(HANDED)[2].removeprefix(f"{path}.")
    return Hand(receiver, text, "good" if verdict.passed else "bad")


def _tone(module: Module) -> str:
    if module.passed:
        return "good"
    return "inherited" if module.inherited else "bad"


def _share(module: Module) -> str:
    return f"{number(100 * module.share)} %"
