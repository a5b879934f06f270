"""The variables of a model by attribute path, which is the state-dict key."""

import tensorflow as tf


def owned_variables(model: tf.Module) -> dict[str, tuple[tf.Variable, str]]:
    """Every variable of `model` once, by path, with the class name of the module that owns it.

    Walks the attributes that `tf.train.Checkpoint` saves, so a path is also a checkpoint's.
    """
    found: dict[str, tuple[tf.Variable, str]] = {}
    seen: set[int] = set()

    def walk(node: object, path: tuple[str, ...]) -> None:
        if id(node) in seen:
            return
        seen.add(id(node))
        for name, child in tf.train.TrackableView(node).children(node).items():
            if isinstance(child, tf.Variable):
                found[".".join((*path, name))] = (child, type(node).__name__)
            else:
                walk(child, (*path, name))

    walk(model, ())
    return found
