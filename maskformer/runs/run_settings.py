"""What fixes a training run, on either side: equal settings and data, equal run.

Framework-free, so that both trainers read one source; the record of a run holds these values.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from maskformer.data.batching import COCO_BUCKETS
from maskformer.model import zoo
from maskformer.model.inputs import InputConfig
from maskformer.model.solver import SolverConfig
from parity.errors import InputError

DTYPES = ("float32", "float64")
MIXED = ("bfloat16",)
"""What TensorFlow also computes in, with variables, norms and losses in float32."""

NORMALISATIONS = ("ddp_mean", "global")
MAY_CHANGE_ON_RESUME = frozenset({"data", "eval_every", "checkpoint_every", "keep"})
"""Settings that do not change what a run computes: the data set may have moved."""

ALWAYS_SAID = ("data", "steps", "batch", "seed")
NOT_SAID = frozenset({"config", "solver", "normalisation"})
"""Said otherwise, or, the last, always the same in `parity train`."""

_SIDE_MULTIPLE = 32


def _check(condition: bool, fact: str, expected: str) -> None:
    if not condition:
        raise InputError(fact, f"expected: {expected}")


@dataclass(frozen=True)
class RunSettings:
    """A training run but for its side, its machine and the contents of its data.

    Attributes:
        config: name of a zoo entry, or absolute path of the original's YAML: model, inputs, solver.
        data: folder of the data set (`maskformer.dataset_layout`), or of its records.
        steps: updates of the whole run.
        batch: images per update, over all replicas.
        seed: of the draws of the data, of the initialisation and of dropout.
        dtype: the model's, of `DTYPES` or `MIXED`.
        capacity: targets an image has room for, T; further ones are left out and counted.
        eval_every: steps between evaluations; 0 evaluates at the end only.
        checkpoint_every: steps between checkpoints; 0 saves at the end only.
        record_every: steps between rows of the record; a row holds the values of that one step.
        keep: how many of the last checkpoints stay.
        initial: None starts from the model's own random initialisation, drawn from `seed`;
            "seeded:N" from `maskformer.model.seeded`; otherwise the path of a checkpoint.
        normalisation: "ddp_mean", the original's, averages the class loss over replicas and counts
            masks over all of them; "global" is what one process computes on the whole batch.
        micro_batches: equal parts of a replica's batch that are computed one after the other, which
            need the memory of one; they count as replicas do.
        train_split, eval_split: names of splits, or the beginnings of one name each.
        solver: fields of `SolverConfig` that differ from the zoo entry's.
    """

    config: str
    data: str
    steps: int
    batch: int
    capacity: int
    seed: int = 0
    dtype: str = "float32"
    eval_every: int = 0
    checkpoint_every: int = 0
    record_every: int = 1
    keep: int = 3
    initial: str | None = None
    normalisation: str = "ddp_mean"
    micro_batches: int = 1
    train_split: str = "train"
    eval_split: str = "val"
    solver: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.type is int:
                whole = isinstance(value, int) and not isinstance(value, bool)
                _check(whole, f"{item.name} is {value!r}", "a whole number")
            elif item.type is str:
                _check(isinstance(value, str), f"{item.name} is {value!r}", "text")
        for name in ("steps", "batch", "capacity", "record_every", "keep", "micro_batches"):
            _check(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}", "at least 1")
        for name in ("seed", "eval_every", "checkpoint_every"):
            _check(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}", "at least 0")
        known = DTYPES + MIXED
        _check(self.dtype in known, f"dtype is {self.dtype!r}", f"one of {known}")
        _check(
            self.normalisation in NORMALISATIONS,
            f"normalisation is {self.normalisation!r}",
            f"one of {NORMALISATIONS}",
        )
        _check(
            isinstance(self.solver, Mapping), f"solver is {self.solver!r}", "an object of changes"
        )
        # As read from JSON: lists are tuples in a solver.
        changes = {k: tuple(v) if isinstance(v, list) else v for k, v in self.solver.items()}
        object.__setattr__(self, "solver", changes)
        self.solver_config()

    @property
    def entry(self) -> zoo.Entry:
        """The entry of `config`; raises InputError for an unknown name and an unusable file."""
        from maskformer.model.detectron2_config import entry_of

        return entry_of(self.config)

    def solver_config(self) -> SolverConfig:
        """The entry's solver for a run of `steps` updates of `batch` images, with the changes.

        The schedule ends with the run (`max_iter` is `steps`) unless the changes say otherwise, as
        in detectron2; milestones and learning rates stay. A warm-up is cut at the end of the run.
        Raises InputError for an unknown field and values that `SolverConfig` refuses.
        """
        base = self.entry.solver
        for name, value in self.solver.items():
            _check_solver_value(name, value)
        values = {"max_iter": self.steps, "ims_per_batch": self.batch, **self.solver}
        if "max_iter" not in self.solver:
            warmup = values.get("warmup_iters", base.warmup_iters)
            values["warmup_iters"] = min(warmup, self.steps)
        solver = dataclasses.replace(base, **values)
        if solver.max_iter < self.steps:
            raise InputError(
                f"the schedule ends at step {solver.max_iter}, the run at {self.steps}",
                "the learning rate is not defined beyond the schedule",
                "Lower the steps, or leave solver.max_iter out.",
            )
        return solver

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values."""
        values = dataclasses.asdict(self)
        values["solver"] = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in self.solver.items()
        }
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunSettings":
        """The settings that `to_dict` gave. Raises InputError for missing and unknown names."""
        fields = {item.name: item for item in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - set(fields)):
            raise InputError(f"a run has no setting {unknown[0]!r}", f"it has: {', '.join(fields)}")
        required = [
            name
            for name, item in fields.items()
            if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        ]
        if missing := [name for name in required if name not in values]:
            raise InputError(
                f"the run's setting {missing[0]!r} is missing", f"required: {', '.join(required)}"
            )
        return cls(**values)


def _check_solver_value(name: str, value: Any) -> None:
    """Raises InputError for a field that a solver lacks, and for a value of another kind."""
    defaults = dataclasses.asdict(SolverConfig())
    if name not in defaults:
        raise InputError(f"the solver has no setting {name!r}", f"it has: {', '.join(defaults)}")
    kinds = (float, int) if isinstance(defaults[name], float) else type(defaults[name])
    _check(
        isinstance(value, kinds) and not isinstance(value, bool),
        f"solver.{name} is {value!r}",
        f"a value such as {defaults[name]!r}",
    )


def default_settings(config: str, data: str, **given: Any) -> RunSettings:
    """Settings with the config's own steps, batch and number of queries where none are given.

    Raises InputError as `RunSettings` does.
    """
    from maskformer.model.detectron2_config import entry_of

    entry = entry_of(config)
    usual = {
        "steps": entry.solver.max_iter,
        "batch": entry.solver.ims_per_batch,
        "capacity": entry.model.predictor.num_queries,
    }
    return RunSettings(config=config, data=data, **{**usual, **given})


def training_words(settings: Mapping[str, Any], side: str) -> list[str]:
    """The words of `parity train` that give these settings, but for its threads and folder.

    `settings` are those of `RunSettings.to_dict`, or some of them, as a record holds them; values
    that are the config's own are left out, but for `ALWAYS_SAID`. A YAML file may be gone and is
    not read; all that would be its own is said. Raises InputError for a name that no entry has.
    """
    config = settings["config"]
    if zoo.is_file(config):
        usual = {item.name: item.default for item in dataclasses.fields(RunSettings)}
    else:
        usual = default_settings(config, settings["data"]).to_dict()
    words = ["parity", "train", *zoo.config_words(config), "--side", side]
    for name, value in settings.items():
        if name in ALWAYS_SAID or (name not in NOT_SAID and value != usual.get(name)):
            words += [f"--{name.replace('_', '-')}", str(value)]
    for name, value in settings.get("solver", {}).items():
        words += ["--solver", f"{name}={json.dumps(value)}"]
    return words


def check_parts(size: int | None, count: int) -> None:
    """Raises InputError unless `count` parts of a replica's batch of `size` images are equal."""
    if size is None or count < 1 or size % count:
        raise InputError(
            f"micro_batches is {count}",
            f"a replica has {size or 'an unknown number of'} images",
            "Choose a divisor of the number of images that a replica has.",
        )


def check_resumable(before: RunSettings, now: RunSettings) -> None:
    """Raises InputError unless both compute the same run, naming every setting that differs."""
    old, new = before.to_dict(), now.to_dict()
    different = [
        f"{name}: {old[name]!r} before, {new[name]!r} now"
        for name in old
        if old[name] != new[name] and name not in MAY_CHANGE_ON_RESUME
    ]
    if different:
        raise InputError(
            "the run was started with other settings",
            "; ".join(different),
            "Resume with the settings it was started with, or choose another folder.",
        )


def buckets(inputs: InputConfig) -> tuple[tuple[int, int], ...]:
    """The (height, width) that training batches of a config are padded to.

    One shape where the mapper pads or crops to one, or where no image is larger than a square of
    `max_size_train`; `COCO_BUCKETS` for the published COCO sizes; otherwise a landscape and a
    portrait shape. Sides are multiples of 32.
    """
    if inputs.mapper != "detr_panoptic":
        if inputs.size_divisibility > 0:
            return ((inputs.size_divisibility,) * 2,)
        if inputs.crop is not None and inputs.crop.type == "absolute":
            return ((_rounded(inputs.crop.size[0]), _rounded(inputs.crop.size[1])),)
    short, long = _rounded(max(inputs.min_sizes_train)), _rounded(inputs.max_size_train)
    largest = COCO_BUCKETS[-1]
    if short == min(largest) and long <= max(largest):
        return COCO_BUCKETS
    return ((long, long),) if long < 2 * short else ((short, long), (long, short))


def _rounded(side: int) -> int:
    return -(-side // _SIDE_MULTIPLE) * _SIDE_MULTIPLE


def settle(given: Mapping[str, Any], before: RunSettings | None) -> RunSettings:
    """Settings of a new run, or, with those of `before`, of its continuation.

    Raises InputError where a new run has no config or data, where `before` cannot be continued
    with what is given, and as `RunSettings` does.
    """
    if before is not None:
        now = RunSettings.from_dict({**before.to_dict(), **given})
        check_resumable(before, now)
        return now
    for name in ("config", "data"):
        if name not in given:
            raise InputError(
                f"--{name} is missing",
                "a new run needs --config and --data",
                "For example: --config scenes_tiny --data runs/scenes.",
            )
    return default_settings(**given)


def solver_changes(texts: Sequence[str]) -> dict[str, Any]:
    """Solver settings from texts NAME=VALUE, VALUE in JSON. Raises InputError for other texts."""
    return dict(_solver_change(text) for text in texts)


def _solver_change(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    try:
        if not separator:
            raise ValueError
        return name, json.loads(value)
    except ValueError:
        # Names such as WarmupPolyLR need no quotes.
        if separator and value.isidentifier():
            return name, value
        raise InputError(
            f"--solver {text!r} is no setting",
            "expected NAME=VALUE",
            "for example --solver base_lr=0.001 --solver steps=[800]",
        ) from None
