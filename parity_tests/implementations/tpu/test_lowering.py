"""What a lowered program leaves behind: its bytes, and nothing of the graph that it was made of."""

import gc
import weakref

import tensorflow as tf

from tf_impl.tpu.lowering import lower


@tf.custom_gradient
def doubled(x):
    return 2.0 * x, lambda passed: 2.0 * passed


def traced_by(trace):
    """A weak reference to the graph of a function with a gradient of its own, after `trace`."""
    graphs = []

    def function(x):
        graphs.append(weakref.ref(tf.compat.v1.get_default_graph()))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(doubled(x))
        return tape.gradient(y, x)

    trace(function, tf.TensorSpec((3,)))
    gc.collect()
    return graphs[0]


def test_the_graph_of_a_lowered_program_is_freed():
    assert traced_by(lambda function, spec: lower(function, [spec]))() is None


def test_a_traced_graph_with_a_gradient_of_its_own_stays():
    """TensorFlow's own behaviour, without which nothing would have to be forgotten."""
    kept = traced_by(lambda function, spec: tf.function(function).get_concrete_function(spec))
    assert kept() is not None


def test_gradients_that_were_registered_before_still_work():
    x = tf.constant([1.0, 2.0])

    @tf.function(autograph=False)
    def before(x):
        return doubled(x)

    before(x)
    lower(lambda x: doubled(x), [tf.TensorSpec((3,))])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = before(x)
    assert tape.gradient(y, x).numpy().tolist() == [2.0, 2.0]
