"""How much of a port was found on the other side: layers with weights, and what they return."""

from collections.abc import Collection
from dataclasses import dataclass

from parity.matching.seen import Side


@dataclass(frozen=True)
class Coverage:
    """Layers of the port that are called and have parameters, and the tensors that these return.

    Args:
        layers: their paths.
        alone: those of which no weight belongs to anything of the reference.
        activations: keys of what they return in their first calls.
        unseen: those that are compared nowhere.
    """

    layers: tuple[str, ...]
    alone: tuple[str, ...]
    activations: tuple[str, ...]
    unseen: tuple[str, ...]

    def __str__(self) -> str:
        layers, activations = len(self.layers), len(self.activations)
        return (
            f"{layers - len(self.alone)} of {layers} layers with parameters are paired, "
            f"{activations - len(self.unseen)} of {activations} tensors that they return compared"
        )


def coverage(ours: Side, paired: Collection[str], compared: Collection[str]) -> Coverage:
    """What of the port has a counterpart.

    A tensor that one layer returns and another is given is one: it is enough to compare it there.

    Args:
        paired: paths of weights that belong to something of the reference.
        compared: keys of tensors that do.
    """
    learnt = [path for path in ours.weights if not ours.trained or path in ours.trained]
    owners: dict[str, list[str]] = {}
    for path in learnt:
        owner = ours.weights[path].owner
        if owner is not None and owner in ours.first_calls:
            owners.setdefault(owner, []).append(path)
    alone = [owner for owner, paths in owners.items() if not set(paths) & set(paired)]
    first = {key: tap.same_as or key for key, tap in ours.taps.items()}
    met = {first[key] for key in compared}
    made = [tap.key for owner in owners for tap in ours.tensors(owner, "output").values()]
    unseen = [key for key in made if first[key] not in met]
    return Coverage(tuple(owners), tuple(alone), tuple(made), tuple(unseen))
