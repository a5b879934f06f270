"""Mistakes in the arguments of PyTorch's loss functions: reduction, smoothing, weights, targets.

A loss that calls a function of `torch.nn.functional` is run again with the call changed. Nothing of
the loss itself need be known.
"""

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from parity.causes.source import Mistake

LOSSES = (
    F.cross_entropy,
    F.nll_loss,
    F.binary_cross_entropy,
    F.binary_cross_entropy_with_logits,
    F.mse_loss,
    F.l1_loss,
    F.smooth_l1_loss,
    F.huber_loss,
    F.kl_div,
    F.poisson_nll_loss,
    F.cosine_embedding_loss,
    F.margin_ranking_loss,
    F.triplet_margin_loss,
    F.multi_margin_loss,
    F.soft_margin_loss,
    F.ctc_loss,
)
SMOOTHINGS = (0.0, 0.05, 0.1, 0.2)
MOST_CLASSES = 200  # of which single weights are changed


@dataclass(frozen=True)
class Called:
    """One call of a loss function in a run: its number, and its arguments by name."""

    number: int
    function: Any
    arguments: dict[str, Any]

    @property
    def name(self) -> str:
        """The function's own name."""
        return self.function.__name__

    def changed(self, **changes: Any) -> Callable[[], Any]:
        """What plants other arguments."""
        return partial(_Changed, {self.number: changes})


def calls_of(run: Callable[[], Any]) -> list[Called]:
    """The calls of loss functions that a run makes, in order; those inside others are left out."""
    seen = _Seen()
    with seen:
        run()
    return seen.calls


def argument_mistakes(run: Callable[[], Any]) -> Iterator[Mistake]:
    """Other values of the arguments of each call, and of all calls alike."""
    yield from _each_and_all(calls_of(run), _otherwise)


def _each_and_all(
    calls: Iterable[Called], offered: Callable[[Called], Iterable[tuple[str, dict[str, Any]]]]
) -> Iterator[Mistake]:
    """Changes of the arguments of single calls, then those that all calls have alike, as the same
    loss of several layers has."""
    alike: dict[str, dict[int, dict[str, Any]]] = {}
    for called in calls:
        for text, changes in offered(called):
            title = f"{called.name}: {text}"
            alike.setdefault(title, {})[called.number] = changes
            yield Mistake(title, called.changed(**changes))
    for title, changes in alike.items():
        if len(changes) > 1:
            yield Mistake(f"{title}, in all {len(changes)} calls", partial(_Changed, changes))


def target_mistakes(run: Callable[[], Any]) -> Iterator[Mistake]:
    """Other targets of each call and of all: shifted, turned, without the first."""
    yield from _each_and_all(calls_of(run), _other_targets)


def _other_targets(called: Called) -> Iterator[tuple[str, dict[str, Any]]]:
    target = called.arguments.get("target")
    if not isinstance(target, torch.Tensor) or not target.dim():
        return
    options = {
        "each target is that of the example before": target.roll(1, 0),
        "each target is that of the example after": target.roll(-1, 0),
        "targets are in reverse": target.flip(0),
    }
    if not target.is_floating_point():
        classes = _classes(called)
        options |= {
            "classes are counted from 1": target + 1,
            "classes are one less": target - 1,
            "the class order is rolled by 1": (target + 1) % classes,
            "the class order is rolled by -1": (target - 1) % classes,
            "the class order is reversed": classes - 1 - target,
        }
    for text, other in options.items():
        yield text, {"target": other}


def fitted_arguments(
    run: Callable[[], Any],
) -> Iterator[tuple[str, Callable[[float], Any], float]]:
    """(text with a place for the number, what plants a number, where to start) of each call, and
    of all calls alike."""
    alike: dict[str, list[tuple[Callable[[float], Any], float]]] = {}
    for called in calls_of(run):
        for text, plant, start in _fitted(called):
            alike.setdefault(text, []).append((plant, start))
            yield text, plant, start
    for text, found in alike.items():
        if len(found) > 1:
            plants = [plant for plant, _ in found]
            yield f"{text}, in all {len(found)} calls", partial(_at_all, plants), found[0][1]


@contextmanager
def _at_all(plants: Sequence[Callable[[float], Any]], value: float) -> Iterator[None]:
    with ExitStack() as stack:
        for plant in plants:
            stack.enter_context(plant(value))
        yield


def _fitted(called: Called) -> Iterator[tuple[str, Callable[[float], Any], float]]:
    given = called.arguments
    for name, start in (("label_smoothing", 0.05), ("beta", 1.0), ("delta", 1.0)):
        if name in given:
            own = given[name]
            text = f"{called.name}: {name} is {{}} instead of {own:g}"
            yield text, partial(_with, called, name), float(own) or start
    for name in ("weight", "pos_weight"):
        if name not in given:
            continue
        count = _weights(called, name)
        if count is None or count > MOST_CLASSES:
            continue
        own = given[name]
        base = torch.ones(count, dtype=given["input"].dtype) if own is None else own
        what = "class" if name == "weight" else "positive weight of class"
        for index in range(count):
            text = f"{called.name}: {what} {index} weighs {{}} instead of {float(base[index]):g}"
            yield text, partial(_with_entry, called, name, base, index), float(base[index])


def _otherwise(called: Called) -> Iterator[tuple[str, dict[str, Any]]]:
    given = called.arguments
    own = given.get("reduction")
    for reduction in ("mean", "sum", *(("batchmean",) if called.function is F.kl_div else ())):
        if own in ("mean", "sum", "batchmean") and reduction != own:
            yield f"a {reduction} instead of a {own}", {"reduction": reduction}
    if own == "mean":
        yield "a mean over examples of sums, not over all elements", {"reduction": _BY_EXAMPLE}
    smoothing = given.get("label_smoothing")
    for value in SMOOTHINGS:
        if smoothing is not None and value != smoothing:
            yield (
                f"label smoothing is {value:g} instead of {smoothing:g}",
                {"label_smoothing": value},
            )
    for name in ("log_target", "full", "log_input"):
        if name in given:
            yield f"{name} is {not given[name]}", {name: not given[name]}
    yield from _ignored(called)
    yield from _weighted(called)


def _ignored(called: Called) -> Iterator[tuple[str, dict[str, Any]]]:
    """Classes that are ignored, and ignored ones that are not."""
    if "ignore_index" not in called.arguments:
        return
    own, target = called.arguments["ignore_index"], called.arguments["target"]
    if target.is_floating_point():
        return
    present = [int(one) for one in target.unique() if int(one) != own]
    for one in present[:MOST_CLASSES]:
        yield f"class {one} is ignored", {"ignore_index": one}
    ignored = target == own
    if bool(ignored.any()):
        yield f"nothing is ignored, where class {own} should be", {"ignore_index": -100}
        for one in (0, _classes(called) - 1):
            yield (
                f"what should be ignored ({own}) counts as class {one}",
                {"target": target.masked_fill(ignored, one), "ignore_index": -100},
            )
        yield (
            "the mean is taken over ignored elements too",
            {"scale": float((~ignored).double().mean())},
        )


def _weighted(called: Called) -> Iterator[tuple[str, dict[str, Any]]]:
    """Weights of classes left out, rolled, reversed; a mean that is not divided by them."""
    for name in ("weight", "pos_weight"):
        own = called.arguments.get(name)
        if own is None or not isinstance(own, torch.Tensor) or not own.dim():
            continue
        yield f"without the {name} of classes", {name: None}
        yield f"the {name} of classes is rolled by 1", {name: own.roll(1)}
        yield f"the {name} of classes is rolled by -1", {name: own.roll(-1)}
        yield f"the {name} of classes is in reverse", {name: own.flip(0)}
        yield f"the {name} of classes is inverted", {name: 1 / own}
        yield f"the {name} of classes is squared", {name: own * own}
        target = called.arguments.get("target")
        if called.function in (F.cross_entropy, F.nll_loss) and (
            called.arguments.get("reduction") == "mean" and not target.is_floating_point()
        ):
            kept = target[target != called.arguments["ignore_index"]]
            share = float(own[kept].double().sum() / max(1, kept.numel()))
            yield (
                "a plain mean: divided by the number of rows, not by their weights",
                {"scale": share},
            )


_BY_EXAMPLE = "by example"


def _classes(called: Called) -> int:
    found = called.arguments["input"]
    return int(found.shape[1] if found.dim() > 1 else found.shape[0])


def _weights(called: Called, name: str) -> int | None:
    """How many weights of classes a call takes; None where there is no such list."""
    own = called.arguments.get(name)
    if isinstance(own, torch.Tensor):
        return int(own.numel()) if own.dim() == 1 else None
    if called.function in (F.cross_entropy, F.nll_loss):
        return _classes(called)
    return None


def _with(called: Called, name: str, value: float) -> Any:
    return _Changed({called.number: {name: value}})


def _with_entry(called: Called, name: str, base: torch.Tensor, index: int, value: float) -> Any:
    weights = base.clone()
    weights[index] = value
    return _Changed({called.number: {name: weights}})


class _Watching(TorchFunctionMode):
    """Meets each outermost call of a loss function, numbered: inside it the mode is off."""

    def __init__(self) -> None:
        super().__init__()
        self._number = itertools.count()

    def meet(self, number: int, function: Any, args: tuple, kwargs: dict) -> Any:
        raise NotImplementedError

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function not in LOSSES:
            return function(*args, **kwargs)
        return self.meet(next(self._number), function, args, kwargs)


def _bound(function: Any, args: tuple, kwargs: dict) -> dict[str, Any]:
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


class _Seen(_Watching):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Called] = []

    def meet(self, number: int, function: Any, args: tuple, kwargs: dict) -> Any:
        self.calls.append(Called(number, function, _bound(function, args, kwargs)))
        return function(*args, **kwargs)


class _Changed(_Watching):
    """Numbered calls with other arguments; `scale` multiplies a result."""

    def __init__(self, changes: Mapping[int, dict[str, Any]]) -> None:
        super().__init__()
        self._changes = changes

    def meet(self, number: int, function: Any, args: tuple, kwargs: dict) -> Any:
        changed = self._changes.get(number)
        if changed is None:
            return function(*args, **kwargs)
        changes = {name: value for name, value in changed.items() if name != "scale"}
        given = {**_bound(function, args, kwargs), **changes}
        by_example = given.get("reduction") == _BY_EXAMPLE
        if by_example:
            given["reduction"] = "none"
        found = function(**given)
        if by_example:
            return found.reshape(len(found), -1).sum(1).mean()
        return found * changed.get("scale", 1.0)
