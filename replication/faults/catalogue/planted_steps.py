"""Faults that ports really have, planted in the TensorFlow side of a training step."""

from typing import Any

import tensorflow as tf

import tf_impl.criterion as tf_criterion
import tf_impl.matcher as tf_matcher
import tf_impl.optimizer as tf_optimizer
import tf_impl.schedule as tf_schedule
import tf_impl.train_step as tf_step

CLIP = 0.01  # of every published solver
PREDICTOR = "sem_seg_head.predictor"
ENCODER_LAYER = "sem_seg_head.pixel_decoder.transformer.encoder.layers.0"


def epsilon_before_the_correction(monkeypatch, step) -> None:
    def update(self, gradient, variable, lr, decay):
        index = self._index_dict[self._var_key(variable)]
        first, second = self._first[index], self._second[index]
        count = tf.cast(self.iterations + 1, variable.dtype)
        first.assign_add((gradient - first) * (1 - self.beta_1))
        second.assign_add((gradient * gradient - second) * (1 - self.beta_2))
        scale = tf.sqrt(1 - self.beta_2**count) / (1 - self.beta_1**count)
        moved = scale * first / (tf.sqrt(second) + self.epsilon)
        variable.assign(variable * (1 - lr * decay) - lr * moved)

    monkeypatch.setattr(tf_optimizer.TorchAdamW, "_update", update)


def decay_on_norms(monkeypatch, step) -> None:
    rule = tf_optimizer.parameter_group

    def group(kind, path, solver):
        return rule(kind, path, solver)[0], solver.weight_decay

    monkeypatch.setattr(tf_optimizer, "parameter_group", group)


def milestone_one_late(monkeypatch, step) -> None:
    rule = tf_schedule.SolverSchedule._multi_step
    monkeypatch.setattr(
        tf_schedule.SolverSchedule, "_multi_step", lambda self, place: rule(self, place - 1)
    )


def clip_before_the_reduction() -> None:
    """Planted in the replicas' own process."""
    apply = tf_step.update

    def update(model, optimizer, values):
        optimizer.global_clipnorm = None
        replicas = tf.distribute.get_replica_context().num_replicas_in_sync
        # Each replica clips the gradient of its own loss, of which it passes on its share.
        scale = tf_optimizer.clip_scale([value * replicas for value in values], CLIP)
        return apply(model, optimizer, [value * scale for value in values])

    tf_step.update = update


def swapped_focal_alpha(monkeypatch, step) -> None:
    monkeypatch.setattr(tf_criterion, "FOCAL_ALPHA", 1 - tf_criterion.FOCAL_ALPHA)


def dice_without_smoothing(monkeypatch, step) -> None:
    both = tf_criterion._focal_and_dice

    def wrong(logits, wanted):
        focal, _ = both(logits, wanted)
        probability, target = tf.sigmoid(logits), tf.cast(wanted, logits.dtype)
        total = tf.reduce_sum(probability + target, axis=(1, 2))
        return focal, 1 - 2 * tf.reduce_sum(probability * target, axis=(1, 2)) / total

    monkeypatch.setattr(tf_criterion, "_focal_and_dice", wrong)


def no_object_weight_on_the_first_class(monkeypatch, step) -> None:
    criterion = step.model.criterion
    monkeypatch.setitem(
        criterion.__dict__, "empty_weight", tf.roll(criterion.empty_weight, 1, axis=0)
    )


def bilinear_targets(monkeypatch, step) -> None:
    def small(targets, size, dtype):
        count = targets.classes.shape[1]
        dense = tf.cast(targets.masks[..., None] == tf.range(count), dtype)
        # In this library's bilinear rule, as in torch's, pixels are squares.
        resized = tf.cast(tf.image.resize(dense, size), dtype)
        flat = tf.reshape(tf.transpose(resized, (0, 3, 1, 2)), (-1, count, size[0] * size[1]))
        return flat * tf.cast(targets.valid, dtype)[:, :, None]

    monkeypatch.setattr(tf_matcher, "downsampled_masks", small)


def targets_in_the_order_of_their_queries(monkeypatch, step) -> None:
    """The queries are right and sorted; each is given the target at its place in the list."""
    right = tf_criterion.match

    def wrong(*arguments) -> Any:
        found = right(*arguments)
        # Padding, -1, stays last.
        largest = tf.int32.max
        queries = tf.where(found.query_of_target < 0, largest, found.query_of_target)
        queries = tf.sort(queries, axis=-1)
        return found._replace(query_of_target=tf.where(queries == largest, -1, queries))

    monkeypatch.setattr(tf_criterion, "match", wrong)


def missing_auxiliary_loss(monkeypatch, step) -> None:
    every = tf_criterion.SetCriterion.losses

    def some(*arguments):
        return {name: one for name, one in every(*arguments).items() if not name.endswith("_0")}

    monkeypatch.setattr(tf_criterion.SetCriterion, "losses", some)


def queries_in_reverse(monkeypatch, step) -> None:
    """The costs of each query are those of another one."""
    costs = tf_matcher.matching_costs
    monkeypatch.setattr(
        tf_matcher, "matching_costs", lambda *given: tf.reverse(costs(*given), axis=[1])
    )


def dropout_after_the_residual_sum(monkeypatch, step) -> None:
    layer = step.recorder.modules[ENCODER_LAYER]

    def wrong(src, pos, training=False):
        query = src + pos
        attended, _ = layer.self_attn(query, query, src, training=training)
        src = layer.norm1(layer.dropout1(src + attended, training=training))
        x = layer._feed_forward(src, training)
        return layer.norm2(src + layer.dropout2(x, training=training))

    monkeypatch.setitem(layer.__dict__, "call", wrong)


def halve_the_gradient_of_mask_features(model) -> None:
    """Planted for good, in the predictor's backward pass alone."""
    predictor = model.sem_seg_head.predictor
    call = predictor.call

    def wrong(x, mask_features, training=False):
        return call(x, 0.5 * mask_features + 0.5 * tf.stop_gradient(mask_features))

    predictor.__dict__["call"] = wrong


def stopped_mask_features(monkeypatch, step) -> None:
    module = step.recorder.modules[PREDICTOR]
    call = module.call
    monkeypatch.setitem(
        module.__dict__,
        "call",
        lambda x, mask_features, training=False: call(x, tf.stop_gradient(mask_features)),
    )
