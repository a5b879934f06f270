"""The declared map between models whose modules and tensors have other names."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from parity.errors import InputError
from parity.frameworks.torch import capture as capture_torch
from parity.names import Names, View, filled, matched
from parity.trace import TraceError

PART = st.text("abcxyz_0123", min_size=1, max_size=4)
PATH = st.lists(PART, min_size=1, max_size=4).map(".".join)
OURS = {"": "root", "enc": "e", "enc.blocks.0": "b0", "enc.blocks.1": "b1", "head": "h"}


def places(**names: list[str]) -> dict[tuple[str, str], list[str]]:
    """Names of the reference's tensors at the inputs of its root."""
    return {("", kind): found for kind, found in names.items()}


def error_of(action) -> str:
    with pytest.raises(InputError) as caught:
        action()
    return str(caught.value)


@given(PATH, st.data())
def test_matched_parts_fill_the_pattern_again(path, data):
    parts = path.split(".")
    stars = data.draw(st.lists(st.booleans(), min_size=len(parts), max_size=len(parts)))
    pairs = zip(parts, stars, strict=True)
    pattern = ".".join("*" if star else part for part, star in pairs)
    found = matched([pattern], [path], "port")
    assert filled(pattern, found[path]) == path


@given(PATH, PATH)
def test_a_star_stands_for_one_part_alone(first, second):
    longer = f"{first}.{second}.{first}"
    assert error_of(lambda: matched(["*"], [longer], "port")).startswith("`*` is no module")
    # Neither may a dot stand for any letter.
    dotless = longer.replace(".", "-", 1)
    error_of(lambda: matched([longer], [dotless], "port"))


@given(st.lists(PART, min_size=1, max_size=6, unique=True))
def test_modules_are_renamed_one_to_one(parts):
    found = {f"layers.{part}.dense": part for part in parts}
    side = Names({"layers.*.dense": "blocks.*.fc"}).port_side({})
    assert side.modules(found) == {f"blocks.{part}.fc": part for part in parts}


def test_the_whole_models_belong_together_without_being_declared():
    names = Names({"enc": "encoder"})
    assert names.port_side({}).modules(OURS) == {"": "root", "encoder": "e"}
    theirs = {"": "root", "encoder": "e", "encoder.norm": "n"}
    assert names.reference_side().modules(theirs) == {"": "root", "encoder": "e"}


def test_an_unknown_module_is_answered_with_the_nearest():
    text = error_of(lambda: Names({"enc.block.*": "a.*"}).port_side({}).modules(OURS))
    assert text == (
        "`enc.block.*` is no module of the port\n"
        "  the nearest of its 5 modules: enc.blocks.1, enc.blocks.0, enc\n"
        "  mend the path in `modules`"
    )
    text = error_of(lambda: Names({"enc": "encodr"}).reference_side().modules({"encoder": "e"}))
    assert text.startswith("`encodr` is no module of the reference\n")


def test_sides_with_another_number_of_stars_are_refused():
    text = error_of(lambda: Names({"enc.blocks.*": "layer"}).port_side({}).modules(OURS))
    assert text == (
        "`layer` has 0 stars\n"
        "  its counterpart in the port has 1\n"
        "  give both sides of the entry the same number of stars"
    )


def test_two_modules_of_the_port_for_one_of_the_reference_are_refused():
    text = error_of(lambda: Names({"enc": "a", "head": "a"}).port_side({}).modules(OURS))
    assert text == (
        "two modules of the port are declared to be `a` of the reference\n"
        "  the second is `head`\n"
        "  let each pattern in `modules` lead to a path of its own"
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (["x"], ["x"], ["x"]),  # the same name
        (["x"], ["image"], ["image"]),  # the only one on both sides
        (["x", "m"], ["image", "m"], ["image", "m"]),  # the only one that is left
        (["x", "m"], ["image"], ["x", "m"]),  # more are left: none is guessed
        (["x"], ["image", "mask"], ["x"]),
        ([], ["image"], []),
    ],
)
def test_tensors_are_paired_by_name_or_by_being_the_only_one(ours, theirs, expected):
    side = Names({}).port_side(places(input=theirs))
    assert side.tensors("", "input", ours) == expected


def test_what_is_declared_of_a_tensor_goes_first():
    names = Names(
        {}, tensors={"model:input.x": "m"}, port_only={"model:input.m": "drawn by the port"}
    )
    side = names.port_side(places(input=["m", "x"]))
    assert side.tensors("", "input", ["x", "m"]) == ["m", None]


def test_a_tensor_of_one_side_only_leaves_its_partner_free():
    side = Names({}, port_only={"*:input.extra": "no use"}).port_side(places(input=["image"]))
    assert side.tensors("", "input", ["extra", "x"]) == [None, "image"]
    theirs = Names({}, reference_only={"*:input.mask": "no use"}).reference_side()
    assert theirs.tensors("", "input", ["image", "mask"]) == ["image", None]


def test_calls_are_counted_as_the_reference_counts_them():
    side = Names({}, calls={"norm": {2: 0}}).port_side({})
    assert [side.call("norm", count) for count in range(3)] == [None, None, 0]
    assert side.call("other", 1) == 1


def test_reasons_are_told():
    names = Names({}, reference_only={"a:input": "one"}, port_only={"b:input": "two"})
    assert names.reasons == [
        "a:input, in the reference only: one",
        "b:input, in the port only: two",
    ]


class Twice(nn.Module):
    """Calls its norm twice and its linear layer once."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

    def forward(self, x: torch.Tensor, unused: torch.Tensor | None = None) -> torch.Tensor:
        return self.norm(self.linear(self.norm(x)))


def recorder(names: Names, reference: bool = False) -> capture_torch.Recorder:
    torch.manual_seed(0)
    side = names.reference_side() if reference else names.port_side({})
    return capture_torch.Recorder(
        Twice().double(), lambda path, kind, name, rank: "NSC"[:rank], naming=side
    )


INPUTS = (np.random.default_rng(0).normal(size=(2, 3, 4)),)


def test_only_declared_modules_and_calls_are_recorded():
    names = Names({"norm": "layernorm"}, calls={"layernorm": {1: 0}})
    _, trace = recorder(names)(INPUTS)
    assert list(trace) == ["model:input.x", "layernorm:input", "layernorm:output", "model:output"]


def test_an_isolated_run_counts_calls_that_are_not_recorded():
    """The norm's second call is the reference's first: the first must run, not be replaced."""
    side = recorder(Names({"norm": "norm"}, calls={"norm": {1: 0}}))
    _, trace = side(INPUTS)
    root = side.calls[0]
    stand_in = {("norm", 0): {"": trace["norm:output"]}}
    alone = side.isolate(root, {"x": trace["model:input.x"]}, stand_in)
    for key in ("norm:input", "norm:output", "model:output"):
        np.testing.assert_array_equal(alone[key].array, trace[key].array)


def test_a_module_without_a_recorded_result_runs_in_an_isolated_run():
    names = Names({"linear": "linear"}, reference_only={"linear:output": "another layout"})
    side = recorder(names, reference=True)
    _, trace = side(INPUTS)
    moved = np.array(trace["model:input.x"].array) + 1.0
    fed = {"x": trace["model:input.x"].__class__("", "input", "x", 0, "NSC", moved)}
    alone = side.isolate(side.calls[0], fed, {("linear", 0): {}})
    expected = side.forward((moved,))
    np.testing.assert_array_equal(alone["model:output"].array, expected)


FLAT = View("NX", lambda port: port.reshape(2, -1), lambda theirs: theirs.reshape(2, 3, 4))


def test_a_view_is_seen_as_the_reference_has_the_tensor_and_fed_back():
    names = Names({}, views={"model:input.x": FLAT})
    side = recorder(names)
    _, trace = side(INPUTS)
    assert trace["model:input.x"].array.shape == (2, 12)
    assert trace["model:input.x"].axes == "NX"
    alone = side.isolate(side.calls[0], {"x": trace["model:input.x"]})
    np.testing.assert_array_equal(alone["model:output"].array, trace["model:output"].array)


def test_a_view_that_does_not_lead_back_is_refused():
    wrong = View("NX", FLAT.to_reference, lambda theirs: theirs.reshape(2, 4, 3))
    with pytest.raises(TraceError) as caught:
        recorder(Names({}, views={"*:input.x": wrong}))(INPUTS)
    assert str(caught.value) == (
        "the view of model:input.x does not lead back to the port's tensor\n"
        "  [2, 3, 4] becomes [2, 12], and back [2, 4, 3]\n"
        "  mend the view, or narrow the place that it is declared for in `views`"
    )


def test_a_module_called_model_is_told_from_the_whole():
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x)

    side = capture_torch.Recorder(Wrapped().double(), lambda path, kind, name, rank: "NSC"[:rank])
    _, trace = side(INPUTS)
    assert list(trace) == ["model:input", ".model:input", ".model:output", "model:output"]


def test_patterns_hold_no_regular_expressions():
    assert matched(["a+b"], ["a+b"], "port") == {"a+b": ()}
    error_of(lambda: matched(["a+"], ["aa"], "port"))
