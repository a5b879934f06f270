"""Faults of the training step: matching, losses, gradients, update, schedule, replicas."""

import numpy as np
import tensorflow as tf

import tf_impl.criterion as criterion
import tf_impl.matcher as matcher
import tf_impl.optimizer as optimizer
import tf_impl.schedule as schedule
import tf_impl.train_step as train_step
from replication.faults.catalogue import planted_steps as planted
from replication.faults.catalogue.forward import DECODER, KERAS, PORT, PREDICTOR
from replication.faults.catalogue.planting import (
    attribute,
    call,
    constant,
    function,
    inside,
    line,
    maker,
    method,
)
from tf_impl.layers import resize_bilinear

TOTAL_MASKS = "tf.maximum(total / (_replicas(tf.float32) * parts), 1.0)"
ADAM = (optimizer.TorchAdamW, "_update")

_fault = maker("stage id what plant places causes imitates bench family", bench="training")


def _bilinear_masks(targets, size, dtype):
    """The targets resized as soft masks."""
    count = targets.classes.shape[1]
    dense = tf.cast(targets.masks[..., None] == tf.range(count), dtype)
    resized = tf.cast(tf.image.resize(dense, size), dtype)
    flat = tf.reshape(tf.transpose(resized, (0, 3, 1, 2)), (-1, count, size[0] * size[1]))
    return flat * tf.cast(targets.valid, dtype)[:, :, None]


def _centre_indices(out_size, in_size):
    """The nearest rule of tf.image.resize."""
    return np.floor((np.arange(out_size) + 0.5) * in_size / out_size).astype(np.int32)


def _scaled_gradient(factor):
    @tf.custom_gradient
    def scaled(x):
        return tf.identity(x), lambda upstream: factor * upstream

    return scaled


def _tables_decayed(kind, path, solver):
    rate, decay = _group(kind, path, solver)
    return rate, solver.weight_decay if "relative_position_bias_table" in path else decay


def _resized_with_a_scaled_gradient(x, size):
    return _scaled_gradient(1.001)(resize_bilinear(x, size))


def _sorted_queries(found):
    largest = tf.int32.max
    queries = tf.where(found.query_of_target < 0, largest, found.query_of_target)
    queries = tf.sort(queries, axis=-1)
    return found._replace(query_of_target=tf.where(queries == largest, -1, queries))


def greedy_assignment(costs, counts):
    """Pairs [N,T] and [N,Q] target by target, on the host."""
    from tf_impl.linear_sum_assignment import NOT_FINITE, Assignment

    rows = np.full((costs.shape[0], costs.shape[2]), -1, np.int32)
    columns = np.full(costs.shape[:2], -1, np.int32)
    for problem, (cost, count) in enumerate(zip(costs.numpy(), counts.numpy(), strict=True)):
        for target in range(count):
            query = int(np.where(columns[problem] < 0, cost[:, target], np.inf).argmin())
            rows[problem, target], columns[problem, query] = query, target
    finite = np.isfinite(costs.numpy()).all(axis=(1, 2))
    status = tf.constant(np.where(finite, 0, NOT_FINITE), tf.int32)
    return Assignment(tf.constant(columns), tf.constant(rows), None, None, status)


MATCHER = ("matcher",)
MATCHING = (
    _fault(
        "matching", "matcher-bilinear-targets", "targets are downsampled bilinearly for the costs",
        constant(matcher, "downsampled_masks", _bilinear_masks), MATCHER,
        ("bilinear interpolation",), PORT,
    ),
    _fault(
        "matching", "matcher-nearest-centres", "targets are downsampled at pixel centres",
        constant(matcher, "nearest_indices", _centre_indices), MATCHER,
        ("half-pixel nearest rule",), "tf.image.resize", family="resize",
    ),
    _fault(
        "matching", "matcher-focal-alpha", "alpha weighs the background in the cost",
        constant(matcher, "FOCAL_ALPHA", 0.75), MATCHER,
        ("focal alpha and 1 - alpha are swapped",),
    ),
    _fault(
        "matching", "matcher-dice-not-smoothed", "the dice cost lacks its + 1",
        function(matcher, "matching_costs", "(overlap + 1) / (total + 1)", "overlap / total"),
        MATCHER, ("dice is not smoothed by 1",),
    ),
    _fault(
        "matching", "matcher-log-probability", "the class cost is a log probability",
        function(matcher, "matching_costs", "tf.nn.softmax(logits)", "tf.nn.log_softmax(logits)"),
        MATCHER, ("log-softmax",), "matchers that take the cross entropy as cost",
    ),
    _fault(
        "matching", "matcher-mask-weight", "the focal cost weighs 1 instead of 20",
        function(matcher, "matching_costs", "weights.mask_weight * focal", "focal"), MATCHER,
        ("multiplied by 0.05", "left out", "times 0.05"),
    ),
    _fault(
        "matching", "matcher-class-left-out", "classes do not enter the costs",
        function(matcher, "matching_costs", "- weights.class_weight * class_probability", ""),
        MATCHER, ("zeros", "multiplied by 0", "left out"),
    ),
    _fault(
        "matching", "matcher-order-of-targets",
        "matched targets are taken in the order of their queries",
        constant(criterion, "match", lambda *given: _sorted_queries(matcher.match(*given))),
        MATCHER, ("targets are taken in another order than their queries",),
    ),
    _fault(
        "matching", "matcher-greedy", "each target takes the cheapest query that is left",
        constant(matcher, "linear_sum_assignment", greedy_assignment), MATCHER,
        ("not optimal",), "shortcuts for accelerators",
    ),
)  # fmt: skip

CRITERION = ("criterion",)
LOSSES = (
    _fault(
        "loss", "loss-focal-alpha", "alpha weighs the background",
        constant(criterion, "FOCAL_ALPHA", 0.75), CRITERION,
        ("focal alpha and 1 - alpha are swapped",),
    ),
    _fault(
        "loss", "loss-focal-gamma", "gamma is 1 instead of 2",
        constant(criterion, "FOCAL_GAMMA", 1), CRITERION,
        ("focal gamma is 1", "power 1 instead of 2"),
    ),
    _fault(
        "loss", "loss-dice-not-smoothed", "dice lacks its + 1",
        function(criterion, "_focal_and_dice", "(overlap + 1) / (total + 1)", "overlap / total"),
        CRITERION, ("dice is not smoothed by 1",),
    ),
    _fault(
        "loss", "loss-dice-squared", "dice divides by squared probabilities",
        function(criterion, "_focal_and_dice",
                 "total = tf.reduce_sum(probability, axis=(1, 2))",
                 "total = tf.reduce_sum(probability**2, axis=(1, 2))"),
        CRITERION, ("square",), "V-Net's dice",
    ),
    _fault(
        "loss", "loss-no-object-first", "the weight of no-object is on the first class",
        attribute("criterion", "empty_weight", lambda weight: tf.roll(weight, 1, 0)), CRITERION,
        ("the no-object weight is on the first class",), PORT,
    ),
    _fault(
        "loss", "loss-no-object-0.001", "no-object weighs 0.001 instead of 0.1",
        attribute("criterion", "empty_weight",
                  lambda weight: tf.concat([weight[:-1], weight[-1:] / 100], 0)), CRITERION,
        ("no-object weighs 0.001",), PORT,
    ),
    _fault(
        "loss", "loss-plain-mean", "cross entropy is divided by the number of queries",
        method(criterion.SetCriterion, "_class_losses", "total = tf.reduce_sum(weighted,",
               "total = tf.reduce_sum(wanted,"), CRITERION, ("plain mean",),
        "class weights without a weighted mean",
    ),
    _fault(
        "loss", "loss-per-image", "mask losses are divided by the number of images",
        method(criterion.SetCriterion, "_num_masks", TOTAL_MASKS,
               "tf.cast(tf.shape(targets.valid)[0], tf.float32)"), CRITERION,
        ("times", "multiplied by", "number of images"),
    ),
    _fault(
        "loss", "loss-sum-of-pixels", "the focal loss is a sum over pixels",
        function(criterion, "_focal_and_dice", "tf.reduce_mean(pixels", "tf.reduce_sum(pixels"),
        CRITERION, ("a sum instead of a mean", "multiplied by", "times"),
    ),
    _fault(
        "loss", "loss-nearest-upsampling", "predictions are upsampled by the nearest rule",
        constant(criterion, "resize_bilinear",
                 lambda x, size: tf.gather(tf.gather(
                     x, matcher.nearest_indices(size[0], x.shape[-2]), axis=-2),
                     matcher.nearest_indices(size[1], x.shape[-1]), axis=-1)),
        CRITERION, ("nearest (rounding down) resize",), family="resize",
    ),
    _fault(
        "loss", "loss-without-targets", "images without targets divide by 0 masks",
        method(criterion.SetCriterion, "_num_masks", TOTAL_MASKS,
               "total / _replicas(tf.float32)"), CRITERION, ("divided by their number",),
    ),
    _fault(
        "loss", "loss-auxiliary-left-out", "the losses of the auxiliary outputs are left out",
        method(criterion.SetCriterion, "losses", "return named",
               'return {name: one for name, one in named.items() if not name.endswith("_0")}'),
        CRITERION, ("the loss is not computed",), f"{PORT}: deep supervision is off",
    ),
)  # fmt: skip

GRADIENTS = (
    _fault(
        "gradient", "gradient-stopped-at-mask-features", "masks do not train the pixel decoder",
        line(PREDICTOR, "_mask_logits(self.mask_embed(hs), mask_features)",
             "_mask_logits(self.mask_embed(hs), tf.stop_gradient(mask_features))"),
        (PREDICTOR,), ("stop",),
    ),
    _fault(
        "gradient", "gradient-stopped-at-queries", "the query embedding is not trained",
        line(PREDICTOR, "query_embed = tf.convert_to_tensor(self.query_embed.weight)",
             "query_embed = tf.stop_gradient(tf.convert_to_tensor(self.query_embed.weight))"),
        (PREDICTOR,), ("stop",),
    ),
    _fault(
        "gradient", "gradient-stopped-between-layers",
        "a decoder layer does not train the one before it, as in look-forward-once variants",
        line(DECODER, "tgt = layer(tgt, memory", "tgt = layer(tf.stop_gradient(tgt), memory"),
        (DECODER,), ("stop",), "Deformable DETR's box refinement",
    ),
    _fault(
        "gradient", "gradient-halved", "the gradient of a feed-forward is halved",
        call(f"{DECODER}.layers.1.linear2",
             lambda original, module: lambda x: _scaled_gradient(0.5)(original(x))),
        (f"{DECODER}.layers.1.linear2",), ("0.5",),
    ),
    _fault(
        "gradient", "gradient-scaled-1e-6", "a gradient is too large by a factor of 1 + 1e-6",
        call("backbone.res4.1.conv2",
             lambda original, module: lambda x: _scaled_gradient(1 + 1e-6)(original(x))),
        ("backbone.res4.1.conv2",), ("1.000001",),
    ),
    _fault(
        "gradient", "gradient-through-norm-statistics", "a norm's statistics are held constant",
        line(f"{DECODER}.layers.0.norm2", "mean = tf.reduce_mean(x, axis=-1, keepdims=True)",
             "mean = tf.stop_gradient(tf.reduce_mean(x, axis=-1, keepdims=True))"),
        (f"{DECODER}.layers.0.norm2",), ("stop",),
    ),
    _fault(
        "gradient", "gradient-branch-detached", "a residual branch is detached",
        line(f"{DECODER}.layers.1",
             "self.norm2(tgt + self.dropout2(attended, training=training))",
             "self.norm2(tgt + tf.stop_gradient(self.dropout2(attended, training=training)))"),
        (f"{DECODER}.layers.1",), ("stop",),
    ),
)  # fmt: skip

OWNED = "owned[first : first + chunk]"
EXPANDED = (
    _fault(
        "loss", "targets-of-the-first-chunk", "of many targets the first few are taken for all",
        function(criterion, "_matched_losses", "(index % chunks) * chunk", "(index % chunks) * 0"),
        ("criterion",),
    ),
    _fault(
        "loss", "overlapping-targets-reversed", "masks that overlap are taken in reverse order",
        function(criterion, "_matched_losses", OWNED, f"{OWNED}[::-1]"), ("criterion",),
    ),
    _fault(
        "gradient", "mask-resize-gradient-scaled", "masks' gradient is 1.001 times as large",
        constant(criterion, "resize_bilinear", _resized_with_a_scaled_gradient), ("criterion",),
        ("multiplied by 1.001",),
    ),
)  # fmt: skip

STEP, SHARE = ("train step",), "share = total / _replicas(total.dtype)"
DIFFERENTIATED = (
    _fault(
        "gradient", "gradient-of-unweighted-losses", "the step differentiates the plain sum",
        function(train_step, "gradients", SHARE, "share = tf.add_n(list(losses.values()))"), STEP,
        ("without their weights",),
    ),
    _fault(
        "gradient", "gradient-of-the-final-layer", "the step differentiates no auxiliary loss",
        function(train_step, "gradients", SHARE,
                 "share = weighted_total({key: one for key, one in losses.items() "
                 "if not key[-1].isdigit()}, model.config.loss)"), STEP, ("of the final layer",),
    ),
    _fault(
        "gradient", "stem-not-trained", "the stem's gradient does not reach the optimizer",
        function(train_step, "gradients", "return Gradients(",
                 "dense[0] = None\n    return Gradients("), STEP, ("has no gradient",),
        "detectron2's FREEZE_AT",
    ),
)  # fmt: skip

OPTIMIZER = ("optimizer",)
UPDATES = (
    _fault(
        "update", "step-updates-twice", "the step updates twice by its gradients",
        function(train_step, "train_step", "norm = update(model, optimizer, found.values)",
                 "update(model, optimizer, found.values)\n"
                 "    norm = update(model, optimizer, found.values)"), STEP, ("updates twice",),
    ),
    _fault(
        "update", "norm-after-clipping", "the norm that is reported is that of clipped gradients",
        function(train_step, "update", "return tf.linalg.global_norm(reduced)",
                 "return tf.minimum(tf.linalg.global_norm(reduced), optimizer.global_clipnorm)"),
        STEP, ("of the clipped gradients",), "global_norm after clip_by_global_norm",
    ),
    _fault(
        "update", "position-bias-decayed", "Swin's tables of position biases are decayed",
        constant(optimizer, "parameter_group", _tables_decayed), OPTIMIZER,
        ("decay by 0.0001 instead of 0",), "", "training_swin",
    ),
    _fault(
        "update", "adam-epsilon-1e-7", "epsilon is 1e-7",
        method(*ADAM, "+ self.epsilon", "+ 1e-7"), OPTIMIZER, ("epsilon is 1e-07",), KERAS,
    ),
    _fault(
        "update", "adam-epsilon-hat", "epsilon is added before the bias correction",
        method(*ADAM, "tf.sqrt(second) / root_2 + self.epsilon",
               "(tf.sqrt(second) + self.epsilon) / root_2"), OPTIMIZER,
        ("is added before the bias correction",), f"{PORT}; {KERAS}",
    ),
    _fault(
        "update", "adam-not-decayed", "weights are not decayed",
                method(*ADAM, "decayed = variable * (1 - lr * decay)", "decayed = variable * 1.0"),
        OPTIMIZER, ("nothing is decayed",),
    ),
    _fault(
        "update", "adam-not-corrected", "moments are not corrected for their bias",
        method(optimizer.TorchAdamW, "_bias_corrections", "return first, tf.sqrt(second)",
               "return tf.ones_like(first), tf.ones_like(second)"), OPTIMIZER,
        ("are not corrected",),
    ),
    _fault(
        "update", "decay-on-norms", "norms and embeddings are decayed",
        constant(optimizer, "parameter_group",
                 lambda kind, path, solver: (
                     _group(kind, path, solver)[0], solver.weight_decay)),
        OPTIMIZER, ("is decayed too",), PORT,
    ),
    _fault(
        "update", "backbone-at-full-rate", "the backbone learns at the head's rate",
        constant(optimizer, "parameter_group",
                 lambda kind, path, solver: (
                     solver.base_lr, _group(kind, path, solver)[1])),
        OPTIMIZER, ("learn at the largest rate",), "no layer-wise rate in the port",
    ),
    _fault(
        "update", "clip-0.1", "gradients are clipped to 0.1 instead of 0.01",
        function(optimizer, "clip_scale", "clip / (norm", "10 * clip / (norm"), OPTIMIZER,
        ("clipped to 0.1",), PORT,
    ),
    _fault(
        "update", "clip-left-out", "gradients are not clipped",
        function(optimizer, "clip_scale", "clip / (norm + CLIP_EPSILON)", "1e30 + 0 * norm"),
        OPTIMIZER, ("gradients are not clipped",),
    ),
    _fault(
        "update", "clip-each-alone", "every gradient is clipped by its own norm",
        method(optimizer.TorchAdamW, "_clip_gradients",
               "return [grad * tf.cast(scale, grad.dtype) for grad in grads]",
               "return [grad * clip_scale([grad], self.global_clipnorm) for grad in grads]"),
        OPTIMIZER, ("every gradient is clipped by its own norm",), "clipnorm of Keras",
    ),
)  # fmt: skip

SCHEDULE = ("schedule",)
RATES = (
    _fault(
        "schedule", "milestone-late", "a milestone acts one iteration late",
        method(schedule.SolverSchedule, "_multi_step", "step >= milestone", "step > milestone"),
        SCHEDULE, ("a milestone acts one update late",), "Keras' PiecewiseConstantDecay",
        "schedule",
    ),
    _fault(
        "schedule", "poly-power-1", "the polynomial has power 1 instead of 0.9",
        method(schedule.SolverSchedule, "_poly", "** solver.power", "** 1.0"), SCHEDULE,
        ("power is 1",), "PolynomialDecay of Keras", "schedule",
    ),
    _fault(
        "schedule", "poly-ends-above-0", "the polynomial ends at 1e-6",
        method(schedule.SolverSchedule, "_poly", "** solver.power",
               "** solver.power * (1 - 1e-6 / solver.base_lr) + 1e-6 / solver.base_lr"),
        SCHEDULE, ("ends at",), "the Model Garden's polynomial", "schedule",
    ),
    _fault(
        "schedule", "warm-up-late", "the warm-up counts from 1",
        method(schedule.SolverSchedule, "_multi_step",
               "where = (tf.cast(step, tf.float64) / solver.max_iter)",
               "where = (tf.cast(step + 1, tf.float64) / solver.max_iter)"), SCHEDULE,
        ("step + 1", "where = "), "", "schedule",
    ),
    _fault(
        "schedule", "warm-up-from-0", "the warm-up begins at 0 instead of its factor",
        method(schedule.SolverSchedule, "_multi_step", "start = solver.warmup_factor *",
               "start = 0.0 *"), SCHEDULE, ("warmup_factor is 0",), "", "schedule",
    ),
    _fault(
        "schedule", "warm-up-left-out", "there is no warm-up",
        method(schedule.SolverSchedule, "_multi_step", "step < solver.warmup_iters",
               "step < 0"), SCHEDULE,
        ("warmup_iters", "warmup_factor is 1", "start"), "", "schedule",
    ),
    _fault(
        "schedule", "gamma-0.5", "a milestone halves the rate",
        method(schedule.SolverSchedule, "_multi_step", "solver.gamma**count", "0.5**count"),
        SCHEDULE, ("gamma is 0.5",), "", "schedule",
    ),
    _fault(
        "schedule", "poly-counts-from-1", "the polynomial is one iteration ahead",
        method(schedule.SolverSchedule, "_poly", "solver.max_iter - step, 0",
               "solver.max_iter - step - 1, 0"), SCHEDULE, ("step + 1", "of the update after"), "",
        "schedule",
    ),
)  # fmt: skip

ANOTHER = (
    _fault(
        "schedule", "second-milestone-alike", "every milestone multiplies the rate by gamma once",
        method(schedule.SolverSchedule, "_multi_step", "solver.gamma**count", "solver.gamma"),
        SCHEDULE, ("steps is",), "", "schedule",
    ),
    _fault(
        "schedule", "constant-warm-up-rises", "a constant warm-up rises",
        method(schedule.SolverSchedule, "_multi_step", "ramp = tf.constant(start, tf.float64)",
               "pass"), SCHEDULE, ("warmup_method",), "", "schedule",
    ),
    _fault(
        "schedule", "float32-one-ahead", "in float32 the rate is that of the iteration after",
        method(schedule.SolverSchedule, "__call__", "step = tf.cast(step, tf.int64)",
               "step = tf.cast(step, tf.int64) + (self.dtype == 'float32')"), SCHEDULE,
        ("in float32 alone",), "", "schedule",
    ),
    _fault(
        "update", "sgd-nesterov", "SGD looks ahead",
        method(optimizer.TorchSGD, "_update", "variable.assign_sub(lr * velocity)",
               "variable.assign_sub(lr * (gradient + self.momentum * velocity))"), OPTIMIZER,
        ("Nesterov",), "nesterov of Keras", "schedule",
    ),
    _fault(
        "update", "float32-epsilon-1e-3", "in float32 epsilon is larger",
        method(*ADAM, "+ self.epsilon",
               "+ (1e-3 if variable.dtype == tf.float32 else self.epsilon)"), OPTIMIZER,
        (), "an epsilon for half precision", "schedule",
    ),
)  # fmt: skip

RATE = "tf.cast(self.learning_rate * factor, variable.dtype)"
APPLIED = (
    _fault(
        "update", "schedule-not-connected", "the optimizer is built without the schedule",
        function(optimizer, "build_optimizer", "SolverSchedule(solver, dtype)", "solver.base_lr"),
        OPTIMIZER, ("does not reach the optimizer",), "", "schedule", "schedule",
    ),
    _fault(
        "update", "rate-of-the-next-step", "the rate is read after the step is counted",
        method(optimizer.TorchAdamW, "update_step", RATE,
               "tf.cast(self._learning_rate(self.iterations + 1) * factor, variable.dtype)"),
        OPTIMIZER, ("of the update after",), "a scheduler that steps first", "schedule",
        "schedule",
    ),
    _fault(
        "update", "clip-scales-up", "gradients below the clip are brought to its length",
        function(optimizer, "clip_scale",
                 "tf.minimum(clip / (norm + CLIP_EPSILON), tf.ones_like(norm))",
                 "clip / (norm + CLIP_EPSILON)"),
        OPTIMIZER, ("shorter than the clip",), "", "schedule", "update",
    ),
)  # fmt: skip

REPLICAS = (
    _fault(
        "update", "clip-before-reduction", "each replica clips before gradients are summed",
        inside("prepare", planted.clip_before_the_reduction), ("update",),
        ("gradients are clipped before the reduction over replicas",),
        "the Model Garden's gradient_clip_norm", "replicas", "optimizer",
    ),
)  # fmt: skip


def _group(kind, path, solver):
    from maskformer.model.solver import parameter_group

    return parameter_group(kind, path, solver)


FAULTS = (
    *MATCHING, *LOSSES, *EXPANDED, *GRADIENTS, *DIFFERENTIATED, *UPDATES, *RATES, *ANOTHER,
    *APPLIED, *REPLICAS,
)  # fmt: skip
