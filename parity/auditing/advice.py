"""Inputs on which many wrong models are right, told before a run."""

from typing import Any

import numpy as np

from parity.calls import flatten, is_array

STRIDE = 32  # a side that this divides hides how padding and rounding are done


def easy(inputs: Any) -> list[str]:
    """What of the inputs hides mistakes, a sentence each; nothing of inputs that do not.

    The two largest axes of an array with four axes are taken for the sides of an image.
    """
    found = []
    for name, array in flatten(inputs, is_array)[1]:
        what = f"input {name}"
        if array.size > 1 and (array == array.flat[0]).all():
            found.append(f"{what} is {array.flat[0]} everywhere: any order of its axes is right")
        if array.ndim and array.shape[0] == 1 and array.ndim > 1:
            found.append(f"{what} has a batch of 1: what mixes the batch is not seen")
        alike = array.ndim > 1 and len(array) > 1 and (array == array[:1]).all()
        if alike and (array != array.flat[0]).any():
            found.append(f"{what} has the same in all of its batch: what mixes it is not seen")
        if array.ndim == 4 and array.dtype.kind == "f":
            sides = [int(side) for side in np.sort(array.shape[1:])[-2:]]
            if sides[0] == sides[1]:
                found.append(f"{what} is square: exchanged height and width are not seen")
            if all(side % STRIDE == 0 for side in sides):
                text = "what rounds or pads sides is not seen"
                found.append(f"{what} has sides that {STRIDE} divides: {text}")
    return found
