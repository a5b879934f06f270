"""Weights that layers hold jointly, which no single tensor can be paired with."""

from collections.abc import Mapping
from dataclasses import replace

from parity.matching.holding import Held
from parity.matching.seen import Side
from parity.weights import Joint, Weights, key_of
from parity.weights.by_layer import between, joints_of


def joints_between(theirs: Side, ours: Side, owners: Mapping[str, str]) -> list[Joint]:
    """The joints of paired layers that are not one tensor and one variable.

    Args:
        owners: pairs of modules, the port's path to the reference's; without any, modules of the
            same path.
    """
    owners = owners or {path: path for path in ours.modules if path in theirs.modules}
    state = {key: one.held for key, one in theirs.weights.items()}
    named = {
        path: key_of(owners[one.owner], one.name)
        for path, one in ours.weights.items()
        if one.owner in owners
    }
    paired = {path for path, key in named.items() if key in state}
    paths = [path for path in ours.weights if path not in paired]
    keys = [key for key in state if key not in {named[path] for path in paired}]
    found: list[Joint] = []
    for layers in owners.items():
        joints, _ = joints_of(between(ours.weights, paths, state, keys, layers, {}))
        found += joints
        paths = [path for path in paths if all(path not in one.port for one in joints)]
        keys = [key for key in keys if all(key not in one.reference for one in joints)]
    return found


def left_to(joints: list[Joint], declared: Weights) -> Weights:
    """What is declared, with all that is held jointly on one side only, so that nobody asks."""
    keys = {key: "held jointly" for one in joints for key in one.reference}
    paths = {path: "held jointly" for one in joints for path in one.port}
    return replace(
        declared,
        reference_only={**keys, **declared.reference_only},
        port_only={**paths, **declared.port_only},
    )


def without(held: Held, joints: list[Joint], declared: Weights) -> None:
    """Takes back what `left_to` declared: these weights are moved by their layers."""
    for index, (names, own) in enumerate(
        (
            ([key for one in joints for key in one.reference], declared.reference_only),
            ([path for one in joints for path in one.port], declared.port_only),
        )
    ):
        for name in names:
            if name not in own:
                held.only[index].pop(name, None)
