"""Products in passes of bfloat16 lose what their parts leave, and nothing else changes."""

import numpy as np
import pytest
from ml_dtypes import bfloat16

from parity.errors import InputError
from tf_impl.tpu.products import DEPTHS, check_passes
from tf_impl.tpu.rounded_products import RoundedProducts

FLOAT32 = 2.0**-24
LEFT = {1: 2.0**-9, 3: 2.0**-17, 6: FLOAT32}
"""By passes, what rounding each factor leaves of it: half of a unit in its last place."""
SUMMED = 64  # roundings of a sum of some dozen products

RNG = np.random.default_rng(0)
TOKENS = RNG.normal(size=(2, 5, 40)).astype(np.float32)
SIZES = np.array([[5, 40], [5, 40]], np.int32)
KERNEL = RNG.normal(size=(40, 8)).astype(np.float32)


class Products:
    """A model of images [N,H,W,C]: a product, or a convolution of one place, and a norm."""

    def __init__(self, kind):
        import tf_impl  # noqa: F401, I001  (selects tf_keras before TensorFlow is imported)
        import tensorflow as tf

        self.kind, self.kernel = kind, tf.Variable(KERNEL)

    def __call__(self, images, sizes):
        import tensorflow as tf

        if self.kind == "product":
            made = images @ self.kernel
        elif self.kind == "product of matrices":
            made = tf.reshape(tf.reshape(images, (-1, 40)) @ self.kernel, (2, 5, 8))
        else:
            made = tf.nn.conv2d(images[:, None], self.kernel[None, None], 1, "VALID")[:, 0]
        return {"made": made, "norm": tf.reduce_sum(images * images), "sizes": sizes}


def computed(kind, passes, outputs=("made", "norm")):
    import tensorflow as tf

    model = RoundedProducts(Products(kind), passes, outputs)
    found = model(tf.constant(TOKENS), tf.constant(SIZES))
    return {name: one.numpy() for name, one in found.items()}


def parts(values, count):
    """What is left of float32 numbers, rounded to bfloat16 part by part; float64."""
    found, left = [], values
    for _ in range(count):
        found.append(left.astype(bfloat16).astype(np.float32))
        left = left - found[-1]
    return [one.astype(np.float64) for one in found]


def of_parts(passes):
    """The product of the parts that so many passes take, exact."""
    depth = DEPTHS[passes]
    left, right = (parts(one, depth + 1) for one in (TOKENS, KERNEL))
    places = [(i, j) for i in range(depth + 1) for j in range(depth + 1) if i + j <= depth]
    return sum(left[i] @ right[j] for i, j in places)


@pytest.mark.parametrize("kind", ["product", "product of matrices", "convolution"])
@pytest.mark.parametrize("passes", DEPTHS)
def test_products_are_those_of_parts_of_bfloat16(kind, passes):
    size = np.abs(TOKENS.astype(np.float64)) @ np.abs(KERNEL.astype(np.float64))
    found = computed(kind, passes)["made"]
    assert (np.abs(found - of_parts(passes)) <= SUMMED * FLOAT32 * size).all()
    exact = TOKENS.astype(np.float64) @ KERNEL.astype(np.float64)
    assert (np.abs(found - exact) <= (2.1 * LEFT[passes] + SUMMED * FLOAT32) * size).all()
    # Those of fewer passes are another product.
    for fewer in (one for one in DEPTHS if one < passes):
        others = np.linalg.norm(found - of_parts(fewer))
        assert others > 3 * np.linalg.norm(found - of_parts(passes))


def test_what_is_no_product_is_as_exact_as_before():
    exact = float((TOKENS.astype(np.float64) ** 2).sum())
    assert abs(computed("product", 1)["norm"] - exact) <= SUMMED * FLOAT32 * exact


@pytest.mark.parametrize("passes", [0, 2, 7])
def test_other_numbers_of_passes_are_refused(passes):
    with pytest.raises(InputError, match="expected: 1, 3, 6"):
        check_passes(passes)
