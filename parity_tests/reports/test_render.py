"""The report's files: complete, self-contained, safe against what they show, and in agreement."""

import base64
import copy
import hashlib
import itertools
import json
import re

import pytest

from maskformer.model.tensor_axes import STAGES
from parity.errors import InputError
from parity.records import json_text
from parity_tests.reports.page import HOSTILE, LADDER_ROWS, Page, assert_rectangular, hostile
from parity_tests.reports.results import audit_result, different_result
from reports.document import number
from reports.drawing.plots import stage_class
from reports.render import render, write_report


@pytest.fixture(scope="module")
def equal():
    return render([audit_result()])


@pytest.fixture(scope="module")
def different():
    return render([different_result()])


def test_page_is_self_contained(equal, different):
    for files in (equal, different):
        page = Page(files["report.html"])
        assert not {"link", "img", "iframe", "object"} & {tag for tag, _ in page.elements}
        for name, value in page.attributes:
            if name in ("src", "href", "srcset", "action", "data"):
                assert value.startswith("#"), f"{name}={value!r}, but should stay inside the page"
        style = re.search(r"<style>(.*?)</style>", files["report.html"], re.S).group(1)
        assert not re.search(r"url\(|@import", style)


def test_page_has_unique_ids_and_links_that_lead_somewhere(equal):
    page = Page(render([audit_result(), different_result()])["report.html"])
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = {value[1:] for name, value in page.attributes if name == "href"}
    referred = {value for name, value in page.attributes if name == "aria-labelledby"}
    assert targets | referred <= set(ids)


def test_page_speaks_to_assistive_technology(equal):
    page = Page(equal["report.html"])
    elements = page.elements
    assert ("html", {"lang": "en"}) in elements
    levels = [int(tag[1]) for tag, _ in elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for tag, attributes in elements:
        if tag == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
        if tag == "th":
            assert attributes["scope"] == "col"
        if attributes.get("class") == "scroll":
            assert attributes["tabindex"] == "0"
            assert attributes["aria-label"]


def test_every_layer_is_in_the_table_in_order_without_script(equal):
    result = audit_result()
    (table,) = (one for one in Page(equal["report.html"]).tables if one[0][:2] == ["#", "Tensor"])
    assert [row[1] for row in table[1:]] == [layer["key"] for layer in result["layers"]]
    gaps = table[0].index("Gap")
    assert [row[gaps] for row in table[1:]] == [
        number(layer["float64"]["gap"]) for layer in result["layers"]
    ]


def test_a_changed_number_changes_every_file(equal):
    result = audit_result()
    result["layers"][17]["float64"]["gap"] = 7.77e-11
    changed = render([result])
    for name, text in changed.items():
        assert text != equal[name]
        if name != "report.json":  # it has the digest of the evidence
            assert "7.8e-11" in text, name
            assert "7.8e-11" not in equal[name], name


def test_failing_layers_are_marked(different):
    page = Page(different["report.html"])
    (table,) = (table for table in page.tables if table[0][:2] == ["#", "Tensor"])
    verdicts = [row[table[0].index("Verdict")] for row in table[1:]]
    expected = [
        "holds"
        if all(judged["passed"] for judged in (layer["float64"], *layer["float32"].values()))
        else "fails"
        for layer in different_result()["layers"]
    ]
    assert verdicts == expected
    assert verdicts.count("fails") > 10
    assert "not a number" in page.text


def test_the_worst_tensor_of_each_execution_has_its_distance_in_ulp(equal):
    result = audit_result()
    layers = {layer["key"]: layer["float32"] for layer in result["layers"]}
    (table,) = (one for one in Page(equal["report.html"]).tables if one[0][0] == "Execution")
    assert len(table) == 4
    for execution, *_, tensor, told in table[1:]:
        figures = layers[tensor][execution]
        assert told == (f"median {figures['ulp50']}, 99 % within {figures['ulp99']}, at most 310")
    for layer in result["layers"]:
        layer["float32"]["xla"] |= {"ulp50": None, "ulp99": None, "ulp_max": None}
    (table,) = (o for o in Page(render([result])["report.html"]).tables if o[0][0] == "Execution")
    assert [row[-1] == "not recorded" for row in table[1:]] == [False, False, True]


def test_localisation_story_is_told(different):
    for name in ("report.html", "report.md"):
        text = different[name].replace("\\_", "_")
        for words in (
            "sem_seg_head.predictor.transformer.decoder.layers.3.norm2",
            "epsilon 1e-6 instead of 1e-5",
            "Only in the reference",
            "criterion:output",
        ):
            assert words in text, f"{name} lacks {words!r}"


def test_twins_agree(different):
    result = different_result()
    document = json.loads(different["report.json"])
    (verdict,) = document["chapters"]
    page_text = " ".join(Page(different["report.html"]).text.split())
    markdown = different["report.md"].replace("\\", "")
    assert verdict["headline"] in page_text
    assert verdict["headline"] in markdown
    file = "evidence/01-audit.json"
    rungs = ["weights", "activations", "activations", *["precision"] * 5]
    shown = [{k: v for k, v in one.items() if k != "measured"} for one in result["claims"]]
    placed = [
        {**claim, "file": file, "rung": rung} for claim, rung in zip(shown, rungs, strict=True)
    ]
    assert document["claims"] == json.loads(json_text(placed))
    for claim in result["claims"]:
        for text in (page_text, markdown):
            assert claim["title"] in text
            assert claim["command"] in text
    tables = [row for table in Page(different["report.html"]).tables for row in table]
    assert len(tables) + LADDER_ROWS == sum(
        line.startswith("| ") and not re.fullmatch(r"[|\s:-]+", line)
        for line in different["report.md"].splitlines()
    )


def test_markdown_tables_are_rectangular(different):
    assert_rectangular(different["report.md"])


def test_hostile_texts_are_shown_not_run():
    files = render([hostile(different_result())])
    page = Page(files["report.html"])
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert "alert(1)" in page.text
    assert not any(name.startswith("on") for name, _ in page.attributes)
    markdown = re.sub(r"(?<!\\)`[^`\n]*`", "", files["report.md"])
    assert "<script>" not in markdown
    assert not re.search(r"(?<!\\)\]\(javascript:", markdown)
    assert_rectangular(files["report.md"])
    assert json.loads(files["report.json"])["claims"][0]["title"] == HOSTILE


def test_script_is_allowed_by_its_hash_alone(equal):
    script = re.search(r"<script>(.*?)</script>", equal["report.html"], re.S).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (
        attributes["content"]
        for tag, attributes in Page(equal["report.html"]).elements
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_reports_are_repeatable_and_leave_the_result_alone():
    result = different_result()
    before = copy.deepcopy(result)
    assert render([result]) == render([result])
    assert json.dumps(result) == json.dumps(before)


def test_small_results_have_a_report():
    result = audit_result() | {
        "layers": [],
        "float32": {},
        "claims": [],
        "inputs": [],
        "capture_effect": {},
        "timings": {},
        "not_verified": [],
        "provenance": {"version": "0.1"},
    }
    result.pop("title")
    page = Page(render([result])["report.html"])
    assert "No tensor was compared." in page.text
    assert "Not run in float32." in page.text


def test_write_report_replaces_files_whole(tmp_path):
    out = tmp_path / "a" / "b"
    path = write_report([different_result()], out)
    assert path == out / "report.html"
    assert write_report([audit_result()], out) == path
    written = {file.name: file.read_text() for file in out.iterdir() if file.is_file()}
    assert written == render([audit_result()])
    (evidence,) = (out / "evidence").iterdir()
    (listed,) = json.loads(written["report.json"])["evidence"]
    assert listed == {
        "file": f"evidence/{evidence.name}",
        "sha256": hashlib.sha256(evidence.read_bytes()).hexdigest(),
        "schema": audit_result()["schema"],
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "other/9"}, "'other/9'"),
        ({"layers": [{"key": "a"}]}, "layers[0] lacks path, kind"),
        ({"float64": None}, "float64 is None"),
    ],
)
def test_incomplete_results_are_refused_and_write_nothing(tmp_path, change, words):
    with pytest.raises(InputError, match=re.escape(words)):
        write_report([audit_result() | change], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def palette(css):
    """The colours of the light and of the dark scheme, dark falling back to light."""
    blocks = re.findall(r":root \{(.*?)\}", css, re.S)
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in blocks[:2])
    return {"light": light, "dark": light | dark}


def contrast(one, other):
    """WCAG 2.2 contrast ratio of two #rrggbb colours."""

    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_the_contrast_that_wcag_aa_asks(equal, scheme):
    colours = palette(equal["report.html"])[scheme]
    for ground in ("page", "panel"):
        for ink in ("text", "quiet", "link", "good", "bad", "open"):
            ratio = contrast(colours[ink], colours[ground])
            assert ratio >= 4.5, f"{ink} on {ground}: {ratio:.2f}, should be 4.5 [{scheme}]"
        for stage in (*STAGES, "other"):
            ratio = contrast(colours[stage_class(stage)], colours[ground])
            assert ratio >= 3, f"{stage} on {ground}: {ratio:.2f}, should be 3 [{scheme}]"
    for name in ("good", "bad", "open"):
        for ink in ("text", name):
            ratio = contrast(colours[ink], colours[f"{name}-panel"])
            assert ratio >= 4.5, f"{ink} on {name}-panel: {ratio:.2f}, should be 4.5 [{scheme}]"
