"""The training loss of mask classification; owns the class weights that the state dict carries."""

import tensorflow as tf
import tf_keras

from maskformer.config import ModelConfig


class SetCriterion(tf_keras.layers.Layer):
    """Holds `empty_weight` [K+1]: ones, and the no-object weight last."""

    def __init__(self, config: ModelConfig, **kwargs) -> None:
        super().__init__(**kwargs)
        weights = [1.0] * config.num_classes + [config.loss.no_object_weight]
        self.empty_weight = self.add_weight(
            "empty_weight",
            (len(weights),),
            initializer=lambda shape, dtype: tf.constant(weights, dtype, shape),
            trainable=False,
        )
