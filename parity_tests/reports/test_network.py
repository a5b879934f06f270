"""The map shows a module's own error where it was measured, and says so where it was not."""

from pathlib import Path

from parity.claims import margin_claim
from parity.judge import function_verdict, gradient_verdict
from parity.metrics import Gap
from parity_tests.reports import recorded
from reports.document import Figure, Table, Text
from reports.drawing.layer_map import Module, colour
from reports.drawing.network import blocks, modules_of
from reports.loading import load, of_result

MIXER = Path(__file__).parent / "mixer"
FLOOR = Gap(1e-15, 4e-15)
SOUND, WRONG = Gap(2e-15, 8e-15), Gap(1e-6, 4e-6)
FIRST, SECOND = "backbone.stem.conv1", "backbone.res2.0.conv1"


def verdicts(judge, wrong, keys):
    return {key: judge(key, WRONG if key in wrong else SOUND, FLOOR) for key in keys}


def claim(identity, judged):
    return margin_claim(identity, "a title", judged, "a derivation", "a command")


def forward(wrong, identity="same_function"):
    keys = [f"{path}:{kind}" for path in (FIRST, SECOND) for kind in ("input", "output")]
    return claim(identity, verdicts(function_verdict, wrong, keys))


def backward(wrong, identity="train_gradients"):
    keys = [f"{path}:{kind}" for path in (SECOND, FIRST) for kind in ("grad_output", "grad_input")]
    return claim(identity, verdicts(gradient_verdict, wrong, keys))


def parts(found, kind):
    return [block for block in found if isinstance(block, kind)]


def table(found):
    """Heads and rows of texts, without the number."""
    (one,) = parts(found, Table)
    assert one.interactive
    return (
        [column.title for column in one.columns[1:]],
        {row[1].text: [cell.text for cell in row[2:]] for row in one.rows},
    )


def titles(found):
    return [figure.plots[0].title for figure in parts(found, Figure)]


def test_own_errors_tell_the_module_at_fault_from_those_that_inherit():
    late = {f"{SECOND}:output", f"{FIRST}:output", f"{SECOND}:input"}
    found = blocks(
        [
            forward(late),
            forward({f"{FIRST}:output"}, "isolated_function"),
            backward({f"{FIRST}:grad_input", f"{SECOND}:grad_input"}),
            backward({f"{SECOND}:grad_input"}, "train_gradients_isolated"),
        ]
    )
    assert titles(found) == ["own error, forward", "own error, backward"]
    heads, rows = table(found)
    assert heads[-4:] == [
        "Own error, forward",
        "In place, forward",
        "Own error, backward",
        "In place, backward",
    ]
    assert [rows[path][1] for path in (FIRST, SECOND)] == ["own error", "own error"]
    assert rows[FIRST][2] != rows[SECOND][2]
    only_forward = blocks([forward(late), forward({f"{FIRST}:output"}, "isolated_function")])
    _, rows = table(only_forward)
    assert [rows[path][1] for path in (FIRST, SECOND)] == ["own error", "inherited"]
    drawn = str(parts(only_forward, Figure)[0].plots[0].wide)
    assert drawn.count("mbad") == 1


def test_without_isolation_the_map_is_in_place_and_says_so():
    found = blocks([forward({f"{SECOND}:output"}), backward(set())])
    assert titles(found) == ["error in place, forward", "error in place, backward"]
    said = " ".join(one.text for one in parts(found, Text))
    assert "parity audit --isolate runs each module alone" in said
    assert "parity audit --train --isolate runs each module alone" in said
    heads, rows = table(found)
    assert not any("Own" in head for head in heads)
    assert [rows[path][1] for path in (FIRST, SECOND)] == ["holds", "fails"]


def test_each_direction_falls_back_by_itself():
    found = blocks([forward(set()), forward(set(), "isolated_function"), backward(set())])
    assert titles(found) == ["own error, forward", "error in place, backward"]


def test_both_maps_have_the_order_of_the_forward_pass():
    found = blocks([forward(set()), backward(set())])
    for figure in parts(found, Figure):
        drawn = str(figure.plots[0].wide)
        assert drawn.index(f"<title>{FIRST}:") < drawn.index(f"<title>{SECOND}:")


def test_a_module_called_twice_is_one_and_what_it_was_given_counts_for_its_maker():
    judged = verdicts(
        function_verdict,
        {"decoder.norm@1:output", "decoder.norm:input"},
        ["decoder.norm:input", "decoder.norm:output", "decoder.norm@1:output"],
    )
    (one,) = modules_of(judged)
    assert (one.path, one.passed) == ("decoder.norm", False)
    judged["decoder.norm@1:output"] = judged["decoder.norm:output"]
    assert modules_of(judged)[0].passed


def test_a_module_without_a_number_is_above_its_limit():
    nan = function_verdict("a:output.x", Gap(float("nan"), float("nan")), FLOOR)
    sound = function_verdict("a:output.y", SOUND, FLOOR)
    for judged in ((nan, sound), (sound, nan)):
        (one,) = modules_of({verdict.key: verdict for verdict in judged})
        assert colour(one) == "mbad"
    assert colour(Module("a", 0.02, True, "")) == "m1"


def test_audits_recorded_before_own_errors_were_stay_readable():
    for one in (recorded.audit(own=None), recorded.audit(), recorded.audit(1e6, 1e6)):
        claims = of_result(one).result.claims
        own = any(claim.id == "isolated_function" for claim in claims)
        (title,) = titles(blocks(claims))
        assert title == ("own error, forward" if own else "error in place, forward")


def boxed(root):
    """Every box by its names, one in another."""
    yield (root.name,), root
    for child in root.children:
        for names, one in boxed(child):
            yield (root.name, *names), one


def test_boxes_hold_every_module_and_what_they_hand_on():
    (one,) = load([MIXER / "faults.json"])
    result = one.result
    found = blocks(result.claims, {x.path: x.edge for x in result.localisations})
    (drawn,) = (block for block in found if block.kind == "boxes")
    every = dict(boxed(drawn.root))
    paths = {layer.path for layer in result.layers}
    assert {".".join(names[1:]) for names in every} >= paths
    bad = {".".join(names[1:]) or "model" for names, box in every.items() if box.tone == "bad"}
    assert bad == {place.path for place in result.localisations}
    wrong = {hand.to for box in every.values() for hand in box.hands if hand.tone == "bad"}
    assert wrong == {"head:input", "fc2:input"}
    for names, box in every.items():
        within = [other for path, other in every.items() if path[: len(names)] == names]
        assert box.open == any(other.tone == "bad" for other in within if other is not box) or any(
            hand.tone == "bad" for hand in box.hands
        )


def test_boxes_of_an_equal_pair_are_closed():
    """The twin."""
    (one,) = load([MIXER / "equal.json"])
    (drawn,) = (x for x in blocks(one.result.claims) if x.kind == "boxes")
    assert {box.tone for _, box in boxed(drawn.root)} <= {"good", ""}
    assert not any(box.open for _, box in boxed(drawn.root))
