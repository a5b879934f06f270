"""The bench of post-processing: decisions, scores, labels, segments and instances of outputs."""

import dataclasses
import inspect
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from maskformer.data import mapper
from maskformer.data.images import Size
from maskformer.family import MASKFORMER
from maskformer.inference import multi_scale as test_time_augmentation
from maskformer.inference import prediction
from maskformer.model.config import ModelConfig
from maskformer.model.inputs import InputConfig
from parity.causes.source import Mistake, functions_of
from parity.judge import PRECISION_FACTOR
from parity.planting import replaced
from replication.faults.benches.data import PIPELINES
from replication.faults.benches.host import Part, audited

NAMES = MASKFORMER.outputs
QUERIES, GRID, PADDED = 64, (24, 32), (48, 64)
VALID, OUTPUT = ((45, 61), (38, 64)), ((50, 55), (31, 62))  # of the two images of a batch
CANVAS = (56, 66)  # larger than every output, as one canvas for a whole data set is
TIES, AUGMENTED = "ties", "augmented"  # cases of results that are made of other inputs
SINGLE = "float32 scores"
TWINS, BAND, CERTAIN = 5, 7, 1000.0  # of exact outputs; the logit's probability rounds to 1
UNSURE = 0.49  # the probability of a query that is just not kept
PEAK = 100.0
PHOTOGRAPH, SCALES, LONGEST, DIVISIBILITY = (40, 56), (32, 48), 100, 32


def _known_inference(place: str) -> list[Mistake]:
    """Mistakes in post-processing that are no edit of one expression."""
    if place == "augmented scores":
        return _known_augmentations()
    return [*_known_orders(), *_known_rules(), *_known_clips()]


def _known_augmentations() -> list[Mistake]:
    """What a model may be given wrongly for a scaled image that is padded."""
    from torch_reference import inference

    right = inference.predict_with_augmentation

    def unpadded(model: Any, *others: Any) -> Any:
        return right(lambda x, sizes: model(x, sizes.new_tensor([x.shape[-2:]])), *others)

    def grey(model: Any, *others: Any) -> Any:
        def call(images: Any, sizes: Any) -> Any:
            (height, width), filled = sizes[0].tolist(), images.clone()
            filled[..., height:, :] = filled[..., width:] = mapper.IMAGE_PADDING
            return model(filled, sizes)

        return right(call, *others)

    return [
        Mistake(text, partial(replaced, inference, "predict_with_augmentation", wrong))
        for text, wrong in (
            ("the model is given the padded size of an image, instead of its own", unpadded),
            (f"scaled images are padded with {mapper.IMAGE_PADDING}, instead of 0", grey),
        )
    ]


def _known_rules() -> list[Mistake]:
    """Other rules for classes, equal queries, the order of segments, sizes that are not given."""
    import torch

    from torch_reference import inference

    merged, predicted = inference.merge_queries, inference.predict

    def last(x: Any, dim: int) -> Any:
        return x.shape[dim] - 1 - right(x.flip(dim), dim=dim)

    def by_score(decisions: prediction.QueryDecisions, *others: Any) -> Any:
        order = np.argsort(-decisions.score, kind="stable")
        place = np.append(np.argsort(order), -1)  # of no query: none
        fields = dataclasses.asdict(decisions)
        owner = place[fields.pop("owner")]
        queries = {name: values[order] for name, values in fields.items()}
        return merged(prediction.QueryDecisions(**queries, owner=owner), *others)

    def padded(outputs: Any, config: ModelConfig, size: Size, valid: Any, given: Any, *more: Any):
        return predicted(outputs, config, size, valid, given or [size] * len(valid), *more)

    right = torch.Tensor.argmax
    return [
        Mistake(text, partial(replaced, owner, name, wrong))
        for text, owner, name, wrong in (
            (
                "classes are independent, by a sigmoid",
                torch.Tensor,
                "softmax",
                lambda x, **given: x.sigmoid(),
            ),
            ("of equal queries the last owns a pixel", torch.Tensor, "argmax", last),
            ("segments are numbered by score", inference, "merge_queries", by_score),
            ("where no size is given, results have the padded one", inference, "predict", padded),
        )
    ]


def _known_clips() -> list[Mistake]:
    """Probabilities and logits that are kept from extremes."""
    import torch

    softmax, sigmoid, found = torch.Tensor.softmax, torch.Tensor.sigmoid, []
    kinds = (("classes", "softmax", softmax), ("masks", "sigmoid", sigmoid))
    for least in (1e-7, 1e-6):
        found += [
            Mistake(
                f"probabilities of {what} are clipped at {least:g}",
                partial(replaced, torch.Tensor, name, _clipped(right, least)),
            )
            for what, name, right in kinds
        ]
    for most in (50.0, 30.0, 20.0):
        found += [
            Mistake(
                f"logits of {what} are clipped at -{most:g} and {most:g}",
                partial(replaced, torch.Tensor, name, _bounded(right, most)),
            )
            for what, name, right in kinds
        ]
    return found


def _clipped(right: Any, least: float) -> Any:
    return lambda x, **given: right(x, **given).clamp(least, 1 - least)


def _bounded(right: Any, most: float) -> Any:
    return lambda x, **given: right(x.clamp(-most, most), **given)


def _known_orders() -> list[Mistake]:
    """Orders of operations in post-processing."""
    from torch_reference import inference

    resize = inference._resize

    def late(values: Any, size: Any) -> Any:
        return resize(values.sigmoid(), size).logit()

    text = "the sigmoid of masks comes before they are resized, instead of after"
    return [Mistake(text, partial(replaced, inference, "_resize", late))]


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What a model gives for two images, and the results to be made of it.

    Results have `sizes`; those of the images' valid parts where that is None.
    """

    config: ModelConfig
    results: tuple[str, ...]
    arrays: Mapping[str, np.ndarray]
    sizes: tuple[Size, ...] | None = OUTPUT

    def of(self, image: int) -> dict[str, np.ndarray]:
        """The arrays of one image."""
        return {key: array[image : image + 1] for key, array in self.arrays.items()}

    def size_of(self, image: int) -> list[Size] | None:
        """The size of one image's results, as `predict` takes it."""
        return None if self.sizes is None else [self.sizes[image]]


class InferenceBench:
    """Post-processing of outputs that put every decision to the test, in float64.

    Exact outputs have scores and probabilities at their thresholds, and equal queries. Scores are
    also made in float32, of the same outputs rounded to it.
    """

    def __init__(self, panoptic: ModelConfig, semantic: ModelConfig, per_pixel: ModelConfig):
        from torch_reference import inference

        everything, labels = ("scores", "labels", "panoptic", "instances"), ("scores", "labels")
        at_half = panoptic.replace(
            inference=dataclasses.replace(panoptic.inference, object_mask_threshold=0.5)
        )
        self._outputs = {
            "panoptic": Outputs(panoptic, everything, _outputs(panoptic, 0)),
            "semantic": Outputs(semantic, labels, _outputs(semantic, 1)),
            "per-pixel": Outputs(per_pixel, labels, _outputs(per_pixel, 2)),
            "exact": Outputs(at_half, everything, _exact_outputs(at_half), None),
            "saturated": Outputs(panoptic, everything, _saturated(_outputs(panoptic, 3))),
        }
        self._settings = {
            name: dataclasses.replace(
                one.config, inference=dataclasses.replace(one.config.inference)
            )
            for name, one in self._outputs.items()
        }
        expected = self.reference(None)
        moved = self.reference(None, seed=0)
        singles, single_limits = self._singles()
        self.part = Part(
            "inference",
            "Both sides make the same scores, labels, segments and instances of outputs",
            expected | singles,
            self.reference,
            {
                # What else multi-scale testing calls has results of its own.
                "augmented scores": [
                    inspect.unwrap(inference.predict_with_augmentation),
                    *functions_of(test_time_augmentation),
                ],
                "": functions_of(inference, prediction, test_time_augmentation),
                SINGLE: (),  # no edit of an expression loses precision alone
            },
            [one.inference for one in self._settings.values()],
            _known_inference,
            {
                key: min(32 * _relative(moved[key], value), 1e-9)
                for key, value in expected.items()
                if isinstance(value, np.ndarray) and value.dtype.kind == "f"
            }
            | single_limits,
        )

    def reference(
        self, keys: Sequence[tuple[str, str]] | None, seed: int | None = None
    ) -> dict[tuple[str, str], Any]:
        """The reference's results of these keys at least, by default of all.

        With `seed`, of outputs moved by one unit in the last place.
        """
        import torch

        from parity.metrics import perturb_ulp
        from torch_reference import inference

        found: dict[tuple[str, str], Any] = {}
        wanted = None if keys is None else {case for _, case in keys}
        places = {place for place, _ in keys or ()}
        for case, name, image in self._cases():
            if wanted is not None and case not in wanted:
                continue
            given = self._outputs[name]
            results = given.results
            if places:
                results = tuple(one for one in results if _needed(one, places))
            config, valid, output = self._settings[name], VALID[image], given.size_of(image)
            outputs = given.of(image)
            if seed is not None:
                outputs = {key: perturb_ulp(value, seed) for key, value in outputs.items()}
            tensors = {key: torch.from_numpy(value) for key, value in outputs.items()}
            if "panoptic" in given.results and (not places or _needed("query", places)):
                masks = inference._resize(tensors[NAMES.masks][0], PADDED)
                masks = inference.sem_seg_postprocess(masks, valid, (output or [valid])[0])
                decided = inference.decide_queries(tensors[NAMES.classes][0], masks, config)
                found |= {
                    (f"query {key}", case): np.asarray(getattr(decided, key)) for key in _DECISIONS
                }
            if results:
                made = inference.predict(tensors, config, PADDED, [valid], output, results)[0]
                found |= _predicted(case, made)
        if wanted is None or TIES in wanted:
            found |= _segments(
                TIES, inference.merge_queries(*self._tied(self._settings["panoptic"]))
            )
        if wanted is None or AUGMENTED in wanted:
            scores = inference.predict_with_augmentation(
                lambda images, sizes: {
                    key: torch.from_numpy(value)
                    for key, value in _seen(
                        images.numpy().transpose(0, 2, 3, 1), sizes.numpy()
                    ).items()
                },
                *_augmentation(self._settings["semantic"]),
            )
            # What is summed in another order moves as much as outputs do that are moved.
            scores = scores if seed is None else perturb_ulp(scores, seed)
            found["augmented scores", AUGMENTED] = np.asarray(scores)
        return _inference_order(found)

    def _singles(self) -> tuple[dict[tuple[str, str], Any], dict[tuple[str, str], float]]:
        """Scores of outputs rounded to float32, exact, and how far those in float32 may be off.

        The rule is that of the float32 claims: `PRECISION_FACTOR` times the reference's own error,
        which is measured as it is and with moved outputs.
        """
        from parity.metrics import perturb_ulp

        exact, limits = {}, {}
        for case, name, image in self._cases():
            rounded = {
                k: array.astype(np.float32) for k, array in self._outputs[name].of(image).items()
            }
            moved = {key: perturb_ulp(array, 0) for key, array in rounded.items()}
            wide = {key: array.astype(np.float64) for key, array in rounded.items()}
            scores = self._scores(name, image, wide)
            errors = [_relative(self._scores(name, image, one), scores) for one in (rounded, moved)]
            exact[SINGLE, case] = scores
            limits[SINGLE, case] = PRECISION_FACTOR * max(*errors, np.finfo(np.float32).eps)
        return exact, limits

    def _scores(self, name: str, image: int, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """The reference's scores of one image, in the precision of `arrays`."""
        import torch

        from torch_reference import inference

        given = self._outputs[name]
        tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
        made = inference.predict(
            tensors, given.config, PADDED, [VALID[image]], given.size_of(image), ("scores",)
        )
        return made[0].scores

    def _tied(self, config: ModelConfig) -> tuple[Any, Sequence[int], float]:
        """Arguments of `merge_queries`: one query keeps exactly the least share of its mask.

        The share is the sound configuration's; the threshold is that of `config`.
        """
        sound, full = self._outputs["panoptic"].config.inference, np.array([100, 100, 100])
        area = np.rint(full * sound.overlap_threshold).astype(int) + np.array((0, 1, -1))
        owner = np.repeat(np.arange(len(full)), area)[None]
        labels, keep = np.array(sound.thing_ids[:3]), np.ones(len(full), bool)
        decisions = prediction.QueryDecisions(np.ones(len(full)), labels, keep, owner, area, full)
        return decisions, sound.thing_ids, config.inference.overlap_threshold

    def _cases(self) -> list[tuple[str, str, int]]:
        """Case, kind of model and image number of everything in the two batches."""
        return [
            (f"{name} {image}", name, image)
            for name in self._outputs
            for image in range(len(VALID))
        ]

    def port(self) -> dict[tuple[str, str], Any]:
        """The port's results of whole batches; those that it cannot make are missing."""
        import tensorflow as tf

        from tf_impl import inference

        found: dict[tuple[str, str], Any] = {}
        for name, outputs in self._outputs.items():
            config, results, sizes = outputs.config, outputs.results, outputs.sizes
            tensors = {key: tf.constant(value) for key, value in outputs.arrays.items()}
            grid = tuple(next(reversed(tensors.values())).shape[-2:])
            output = VALID if sizes is None else sizes
            plan = inference.resize_plan(config, grid, PADDED, VALID, output, CANVAS)
            given = {
                key: tf.constant(value, tf.int32 if key == "sizes" else tf.float64)
                for key, value in vars(plan).items()
                if value is not None
            }
            if "panoptic" in results:
                decided = inference.infer(tensors, given, config, results, CANVAS)
                for image, (height, width) in enumerate(output):
                    values = {
                        key: decided[f"query_{key}"].numpy()[image]
                        for key in _DECISIONS
                        if f"query_{key}" in decided
                    }
                    if "owner" in values:
                        values["owner"] = values["owner"][:height, :width]
                    found |= {
                        (f"query {key}", f"{name} {image}"): one for key, one in values.items()
                    }
            inference.compiled.cache_clear()
            how = {"canvas": CANVAS, "jit_compile": False}
            made = inference.predict(tensors, config, PADDED, VALID, sizes, results, **how)
            for image, one in enumerate(made):
                found |= _predicted(f"{name} {image}", one)
            rounded = {key: tf.cast(value, tf.float32) for key, value in tensors.items()}
            made = inference.predict(rounded, config, PADDED, VALID, sizes, ("scores",), **how)
            inference.compiled.cache_clear()
            for image, one in enumerate(made):
                found[SINGLE, f"{name} {image}"] = one.scores
        sound = self._outputs["panoptic"].config
        found |= _segments(TIES, inference.merge_queries(*self._tied(sound)))
        tf.config.run_functions_eagerly(True)  # or XLA compiles every scale
        try:
            found["augmented scores", AUGMENTED] = inference.predict_with_augmentation(
                lambda images, sizes: {
                    key: tf.constant(value)
                    for key, value in _seen(images.numpy(), sizes.numpy()).items()
                },
                *_augmentation(self._outputs["semantic"].config),
            )
        finally:
            tf.config.run_functions_eagerly(False)
            inference.compiled.cache_clear()
        return _inference_order(found)

    def audit(self) -> Any:
        """What the claim on post-processing says of the port as it is now."""
        return audited(self.part, self.port)


def _needed(result: str, places: Iterable[str]) -> bool:
    """Whether a result is among these places: `panoptic` gives segments, `query` decisions."""
    starts = {"panoptic": "segment", "instances": "instance"}.get(result, result)
    return any(place.startswith(starts) for place in places)


def _predicted(name: str, made: Any) -> dict[tuple[str, str], Any]:
    found: dict[tuple[str, str], Any] = {}
    if made.scores is not None:
        found["scores", name] = made.scores
    if made.labels is not None:
        found["labels", name] = made.labels
    if made.panoptic is not None:
        found |= _segments(name, made.panoptic)
    if made.instances is not None:
        found["instance labels", name] = tuple(one.category_id for one in made.instances)
        found["instance scores", name] = np.array([one.score for one in made.instances])
        found["instance masks", name] = np.array([one.mask for one in made.instances])
    return found


def _segments(case: str, made: Any) -> dict[tuple[str, str], Any]:
    return {
        ("segments", case): tuple((one.id, one.category_id) for one in made.segments),
        ("segment map", case): made.ids,
    }


def _augmentation(config: ModelConfig) -> tuple[np.ndarray, ModelConfig, InputConfig, Any]:
    """What multi-scale testing takes besides a model."""
    from maskformer.data.images import synthetic_image

    inputs = dataclasses.replace(
        PIPELINES["ade20k"][0], tta_min_sizes=SCALES, tta_max_size=LONGEST, tta_flip=True
    )
    smaller = dataclasses.replace(config, size_divisibility=DIVISIBILITY)
    return synthetic_image(*PHOTOGRAPH, 0), smaller, inputs, PHOTOGRAPH


def _seen(images: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs float64 that follow what images [1,H,W,3] show, as those of a model would.

    They also follow places relative to the valid sizes [1,2], as position encodings do.
    """
    from maskformer.model import zoo

    config = zoo.model_config("ade20k_r50")
    rng = np.random.default_rng(6)
    levels = images[:, ::4, ::4].astype(np.float64) / 64 - 2
    mixture = rng.normal(size=(QUERIES, 3))
    masks = np.einsum("qc,nhwc->nqhw", mixture, levels)
    rows, columns = (
        4 * np.arange(side) / size for side, size in zip(levels.shape[1:3], sizes[0], strict=True)
    )
    masks += np.sin(rows)[:, None] + np.cos(columns)
    return {
        NAMES.classes: rng.normal(size=(1, QUERIES, config.num_classes + 1)),
        NAMES.masks: masks,
    }


_DECISIONS = ("score", "label", "keep", "owner", "area", "full_area")
_INFERENCE = (
    "query score", "query label", "query keep", "query owner", "query area", "query full_area",
    "scores", "labels", "segments", "segment map", "instance labels", "instance scores",
    "instance masks", "augmented scores", SINGLE,
)  # fmt: skip


def _inference_order(found: Mapping[tuple[str, str], Any]) -> dict[tuple[str, str], Any]:
    return dict(sorted(found.items(), key=lambda item: _INFERENCE.index(item[0][0])))


def _relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    size = float(np.linalg.norm(theirs)) or 1.0
    if ours.shape != theirs.shape:
        return np.inf
    least = float(np.finfo(np.float64).eps)
    return max(float(np.linalg.norm(ours - theirs)) / size, least)


def _saturated(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same with logits up to +-100, so that probabilities are all but 0 and 1."""
    return {key: PEAK / np.abs(array).max() * array for key, array in arrays.items()}


def _outputs(config: ModelConfig, seed: int) -> dict[str, np.ndarray]:
    """Outputs of a batch, one image like `_outputs_of_one` after another."""
    images = [_outputs_of_one(config, [seed, image]) for image in range(len(VALID))]
    return {key: np.concatenate([one[key] for one in images]) for key in images[0]}


def _outputs_of_one(config: ModelConfig, seed: Sequence[int]) -> dict[str, np.ndarray]:
    """Outputs in which queries overlap to any degree, some are unsure, and classes recur."""
    rng = np.random.default_rng(seed)
    if config.matching is None:
        return {NAMES.pixels: rng.normal(size=(1, config.num_classes, *PADDED))}
    rows, columns = np.mgrid[: GRID[0], : GRID[1]]
    centres = rng.uniform(0, 1, (QUERIES, 2)) * GRID
    radii = rng.uniform(1.0, 4.5, QUERIES)
    distance = np.hypot(rows - centres[:, 0, None, None], columns - centres[:, 1, None, None])
    masks = 1.5 * (radii[:, None, None] - distance) + rng.normal(0, 0.3, (QUERIES, *GRID))
    masks[-1] = -9.0  # an empty mask
    classes = rng.integers(0, config.num_classes, QUERIES)
    classes[: QUERIES // 8] = config.num_classes
    logits = rng.normal(size=(QUERIES, config.num_classes + 1))
    # Probabilities of 0.5 to 0.99 of the chosen class, on both sides of any threshold.
    wanted = rng.permutation(np.linspace(0.55, 0.99, QUERIES))
    others = np.log(np.exp(logits).sum(1) - np.exp(logits[range(QUERIES), classes]))
    logits[range(QUERIES), classes] = others + np.log(wanted / (1 - wanted))
    return {NAMES.classes: logits[None], NAMES.masks: masks[None]}


def _exact_outputs(config: ModelConfig) -> dict[str, np.ndarray]:
    """Outputs of a batch whose probabilities are 0, one half or 1, so that no sum is rounded.

    Twins share a band of rows and their score, and differ in class. Every other pair is between two
    classes, each with a probability of one half, as have all but one of the masks. The masks are as
    large as the results but for their padding, so that nothing is resized. The last query has a
    little less than one half, which is not kept.
    """
    shape = (len(VALID), 2 * TWINS + 1)
    logits = np.full((*shape, config.num_classes + 1), -CERTAIN)
    masks = np.full((*shape, *PADDED), -CERTAIN)
    for query in range(2 * TWINS):
        pair = query // 2
        logits[:, query, query % config.num_classes] = 0.0
        if pair % 2:
            logits[:, query, (query + 2 * TWINS) % config.num_classes] = 0.0
        masks[:, query, BAND * pair : BAND * (pair + 1)] = (0.0, CERTAIN)[pair % 3 // 2]
    logits[:, -1, :3] = np.log([UNSURE, (1 - UNSURE) / 2, (1 - UNSURE) / 2])
    masks[:, -1, BAND * TWINS :] = CERTAIN
    return {NAMES.classes: logits, NAMES.masks: masks}
