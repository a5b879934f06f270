"""Faults that hide where values coincide: odd sides, small maps, halves, ties, the end of a run."""

import tf_impl.dataset as dataset
import tf_impl.inference as inference
import tf_impl.modeling.swin as swin
import tf_impl.schedule as schedule
from maskformer.data import augmentation
from replication.faults.catalogue.host import _edited
from replication.faults.catalogue.planting import function, line, maker, method

LAYER = "backbone.layers"
SCHEDULE = ("schedule",)
PADDED = "x = tf.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))"

_fault = maker(
    "id stage bench what plant places causes imitates",
    family="coinciding values",
)

FAULTS = (
    _fault(
        "odd-merging-padded-first", "backbone", "swin", "an odd map is padded before, not after",
        line(f"{LAYER}.1.downsample", "(0, height % 2), (0, width % 2)",
             "(height % 2, 0), (width % 2, 0)"),
        (f"{LAYER}.1.downsample", f"{LAYER}.1.downsample.norm:input"),
        ("padded on the other side",),
    ),
    _fault(
        "odd-merging-cut", "backbone", "swin", "an odd map loses its last row and column",
        line(f"{LAYER}.2.downsample", PADDED,
             "x = tf.pad(x[:, :height - height % 2, :width - width % 2], "
             "((0, 0), (0, 2 * (height % 2)), (0, 2 * (width % 2)), (0, 0)))"),
        (f"{LAYER}.2.downsample", f"{LAYER}.2.downsample.norm:input"), (),
        "a stride of 2 that is rounded down",
    ),
    _fault(
        "odd-merging-repeated", "backbone", "swin", "an odd map's last row is repeated, not padded",
        line(f"{LAYER}.1.downsample", PADDED, f"{PADDED[:-1]}, 'SYMMETRIC')"),
        (f"{LAYER}.1.downsample", f"{LAYER}.1.downsample.norm:input"), ("replicate padding",),
    ),
    _fault(
        "odd-patches-repeated", "backbone", "swin", "rests of patches repeat the last pixels",
        line("backbone.patch_embed", "(0, pad_right), (0, 0))))",
             "(0, pad_right), (0, 0)), 'SYMMETRIC'))"),
        ("backbone.patch_embed", "backbone.patch_embed.proj:input"), ("symmetric padding",),
    ),
    _fault(
        "odd-patches-padded-around", "backbone", "swin", "rests of patches are padded around",
        line("backbone.patch_embed", "(0, pad_bottom), (0, pad_right)",
             "(pad_bottom // 2, pad_bottom - pad_bottom // 2), "
             "(pad_right // 2, pad_right - pad_right // 2)"),
        ("backbone.patch_embed", "backbone.patch_embed.proj:input"), ("padded on both sides",),
        "SAME padding",
    ),
    _fault(
        "odd-small-map-not-shifted", "backbone", "swin", "maps within a window are not shifted",
        line(f"{LAYER}.3.blocks.1", "if self.shift:\n        x = tf.roll(x, (-self.shift",
             "if self.shift and min(height, width) > self.window:\n"
             "        x = tf.roll(x, (-self.shift"),
        (f"{LAYER}.3.blocks.1", f"{LAYER}.3.blocks.1.attn:input.x"),
        ("not shifted", "padded on the other side"),
        "a window that shrinks to the map",
    ),
    _fault(
        "odd-small-map-not-masked", "backbone", "swin", "maps within a window have no shift mask",
        function(swin, "shift_mask", "return np.where(region[:, None, :] == region[:, :, None], "
                 "0.0, SHIFT_MASK)",
                 "mask = np.where(region[:, None, :] == region[:, :, None], 0.0, SHIFT_MASK)\n"
                 "    return mask if min(height, width) > window else 0.0 * mask"),
        (f"{LAYER}.3", f"{LAYER}.3.blocks.0:input.shift_mask", f"{LAYER}.2",
         f"{LAYER}.3.blocks.1:input.shift_mask", f"{LAYER}.2.blocks.0:input.shift_mask"),
        ("all zeros", "masked"), "a window that shrinks to the map",
    ),
    _fault(
        "end-negative", "schedule", "schedule", "past its end a polynomial is not held at 0",
        method(schedule.SolverSchedule, "_poly", "tf.maximum(solver.max_iter - step, 0)",
               "solver.max_iter - step"), SCHEDULE, ("not held at its end",),
    ),
    _fault(
        "end-begins-anew", "schedule", "schedule", "past its end a schedule begins anew",
        method(schedule.SolverSchedule, "__call__", "step = tf.cast(step, tf.int64)",
               "step = tf.cast(step, tf.int64) % self.solver.max_iter"), SCHEDULE,
        ("begins anew",),
        "cosine restarts",
    ),
    _fault(
        "end-last-milestone-lost", "schedule", "schedule", "past its end milestones do not hold",
        method(schedule.SolverSchedule, "_multi_step", "step >= milestone",
               "(step >= milestone) & (step < solver.max_iter)"), SCHEDULE,
        ("is that of update", "begins anew"),
    ),
    _fault(
        "saturated-classes-clipped", "inference", "inference", "classes are clipped at 1e-7",
        function(inference, "infer", "tf.nn.softmax(logits)",
                 "tf.clip_by_value(tf.nn.softmax(logits), 1e-7, 1 - 1e-7)"),
        ("inference: query score", "inference: scores"), ("clipped at 1e-07",), "default of Keras",
    ),
    _fault(
        "saturated-masks-clipped", "inference", "inference", "masks are clipped at 1e-6",
        function(inference, "infer", "tf.sigmoid(_apply(plan[\"mask_rows\"], masks, "
                 "plan[\"mask_columns\"]))",
                 "tf.clip_by_value(tf.sigmoid(_apply(plan[\"mask_rows\"], masks, "
                 "plan[\"mask_columns\"])), 1e-6, 1 - 1e-6)"),
        ("inference: scores", "inference: query owner"), ("clipped at 1e-06",),
    ),
    _fault(
        "saturated-logits-clipped-50", "inference", "inference", "class logits are clipped at 50",
        function(inference, "infer", "tf.nn.softmax(logits)",
                 "tf.nn.softmax(tf.clip_by_value(logits, -50.0, 50.0))"),
        ("inference: query score", "inference: scores"), ("clipped at -50 and 50",),
    ),
    _fault(
        "saturated-softmax-overflows", "inference", "inference", "the softmax overflows in float32",
        function(inference, "infer", "tf.nn.softmax(logits)",
                 "tf.exp(logits) / tf.reduce_sum(tf.exp(logits), -1, keepdims=True)"),
        ("inference: float32 scores",), (), "a softmax by hand",
    ),
    _fault(
        "half-resized-side-to-even", "data", "data", "half-way sides are rounded to even ones",
        _edited(augmentation, "int(new_height + 0.5), int(new_width + 0.5)",
                "round(new_height), round(new_width)"), ("data: test sizes",), ("round",),
        "round of Python 3",
    ),
    _fault(
        "fast-resize-truncated", "data", "data", "the fast resize rounds down at 0.6",
        function(dataset, "enlarge", "+ 0.5, size", "+ 0.4, size"), ("data: photograph",),
    ),
    _fault(
        "fast-resize-rounded-up", "data", "data", "the fast resize rounds up from 0.3 on",
        function(dataset, "enlarge", "+ 0.5, size", "+ 0.7, size"), ("data: photograph",),
    ),
    _fault(
        "flip-before-crop", "data", "data", "images are flipped before they are cropped",
        method(dataset.TrainingData, "steps_at",
               "return index, self._draw(epoch, index, labels)",
               "return index, tuple(sorted(self._draw(epoch, index, labels), "
               "key=lambda one: type(one).__name__ == 'Crop'))"),
        ("data: draws Crop", "data: draws Flip"), (), "another order of augmentations",
    ),
)  # fmt: skip
