"""A name from a stranger is shown as it is: it forges no line, no markup and no colour anywhere."""

import json
import re

import pytest

from parity.claims import claim
from parity.measurements import Findings
from parity_tests.reports import recorded
from parity_tests.reports.page import Page
from reports.compare import compare, markdown
from reports.escaping import in_code, in_html, in_markdown
from reports.loading import of_result
from reports.render import render

NAMES = {
    "control": "a\x1b[31mred\x07\x9b",
    "direction": "a\u202egnp.exe",
    "html": "</td><script>alert(1)</script><td>",
    "markdown": "a|b`c`*d*[e](http://f)~g~",
    "line": "a\n| forged | holds |\n# verdict: equal",
    "rich": "[bold red]a[/]",
}
CONTROL = ("\x1b", "\x07", "\x9b", "\u202e", "\r")


def suite(name):
    made = claim("one", name, Findings(1, [name]), name, f"pytest {name}")
    return {
        "schema": "maskformer-replication/suite/2",
        "title": name,
        "verdict": "different",
        "command": f"pytest {name}",
        "claims": [made.to_json()],
        "provenance": {"python": name},
    }


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_no_file_of_a_report_carries_what_a_name_forges(name):
    files = render([suite(name)])
    sound = render([suite("plain")])
    for text in files.values():
        assert not any(sign in text for sign in CONTROL)
    assert "alert(1)</script>" not in files["report.html"]
    assert "<script>alert" not in re.sub("`[^`\n]*`", "", files["report.md"])  # code is text
    for kind in ("#", "|", "- "):
        lines = [
            [line for line in one["report.md"].splitlines() if line.startswith(kind)]
            for one in (files, sound)
        ]
        assert len(lines[0]) == len(lines[1]), kind
    pages = [Page(one["report.html"]) for one in (files, sound)]
    assert [len(table) for table in pages[0].tables] == [len(table) for table in pages[1].tables]
    json.loads(files["report.json"])


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_no_line_on_a_terminal_is_forged(name, tmp_path, parity):
    path = tmp_path / "suite.json"
    path.write_text(json.dumps(suite(name)))
    _, out, err = parity("report", path, "--out", tmp_path / "out")
    assert not any(sign in out + err for sign in CONTROL)
    _, plain, _ = parity("verify", tmp_path / "out")
    assert not any(sign in plain for sign in CONTROL)
    assert not any(line.startswith(("# verdict", "| forged")) for line in out.splitlines())


def test_a_summary_of_a_comparison_escapes_names():
    before, after = (of_result(recorded.audit()) for _ in range(2))
    text = markdown(compare([before], [after]), "a`|\nb", "c<b>")
    head = text.splitlines()[0]
    assert "\n" not in head
    assert head.count("`") == 4


def test_plain_names_are_kept():
    """The twin: what is no danger is not changed."""
    for text in ("backbone.res2.0.conv1:output", "x.y", "2x3", "ö ü 漢"):
        assert in_html(text) == text
        assert in_code(text) == f"`{text}`"
    assert in_markdown("a b") == "a b"
