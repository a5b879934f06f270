"""The guide for additions, followed: each of its examples is added, and seen through a report."""

import contextlib
import io
import json
import re
import shlex

import pytest

from maskformer import family
from parity.frameworks import registry
from parity_tests.docs.documents import commands_in, text_of
from replication.cli import app
from replication.faults.catalogue.every import FAULTS
from reports.kinds import KINDS

GUIDE = "docs/extending.md"


def blocks(chapter):
    """The Python of one chapter of the guide, and the output that is shown."""
    text = text_of(GUIDE).partition(f"\n## {chapter}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.S | re.M)
    return ["".join(code for one, code in found if one == of) for of in ("python", "text")]


def run(chapter, **names):
    """What the Python of a chapter defines, given `names`; what it prints is as the guide shows."""
    python, shown = blocks(chapter)
    names = {"__name__": "guide", **names}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(python, f"{chapter} of {GUIDE}", "exec"), names)
    assert printed.getvalue() == shown
    return names


@pytest.fixture
def checksums(monkeypatch, tmp_path):
    """The verb and the kind of result of the guide are known during the test; gives its folder."""
    defined = run("A kind of result")
    kind, result = defined["KIND"], defined["ChecksumsResult"]
    monkeypatch.setitem(KINDS, kind.schema, kind)

    compared = run("A claim", ChecksumsResult=result)["compared"]
    monkeypatch.setattr(app, "registered_commands", [*app.registered_commands])
    run("A verb", compared=compared)["register"](app)
    monkeypatch.chdir(tmp_path)
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_a_verb_records_a_new_kind_which_is_reported_and_verified(checksums, parity):
    status, out, err = parity("checksums", "before", "after", "--out", "runs/sums")
    assert (status, out) == (0, "verdict: equal\n"), err
    assert "Checksums of before" in (checksums / "runs/sums/report.html").read_text()
    assert parity("verify", "runs/sums")[0] == 0
    status, out, _ = parity("report", "runs/sums/checksums.json", "--out", "report", "--json")
    (claim,) = json.loads(out)["claims"]
    assert (status, claim["rung"], claim["file"]) == (0, "weights", "evidence/01-checksums.json")
    assert parity("verify", "report")[0] == 0


def test_a_result_that_contradicts_its_claims_is_found(checksums, parity):
    assert parity("checksums", "before", "after", "--out", "runs/sums")[0] == 0
    (path,) = (checksums / "runs/sums/evidence").glob("*.json")
    path.write_text(path.read_text().replace('"verdict": "equal"', '"verdict": "different"'))
    status, out, _ = parity("verify", "runs/sums")
    assert status == 1
    assert "verdict" in out


def test_folders_that_differ_are_told_apart(checksums, parity):
    (checksums / "after" / "more").touch()
    assert parity("checksums", "before", "after", "--out", "runs/sums")[0] == 1
    assert "at more" in (checksums / "runs/sums/report.md").read_text()
    assert parity("verify", "runs/sums")[0] == 0


def test_without_its_line_a_kind_is_refused(checksums, parity, monkeypatch):
    monkeypatch.delitem(KINDS, run("A kind of result")["KIND"].schema)
    status, _, err = parity("checksums", "before", "after", "--out", "runs/sums")
    assert status == 2
    assert "which no report knows" in err


@pytest.fixture
def numpy_framework(monkeypatch, tmp_path):
    """The chapter's framework, registered during the test; gives what its Python defines."""
    monkeypatch.setattr(registry, "ENTRIES", dict(registry.ENTRIES))
    monkeypatch.chdir(tmp_path)
    return run("A framework")


def test_a_framework_is_audited_reported_and_verified(numpy_framework, parity):
    commands = commands_in(text_of(GUIDE))
    assert [command.split()[1] for command in commands] == ["report", "verify"]
    for command in commands:
        status, out, err = parity(*shlex.split(command)[1:])
        assert status == 0, out + err


def test_a_fault_in_a_model_of_the_framework_is_found(numpy_framework):
    engine, side = numpy_framework["parity"], numpy_framework["numpy_side"]
    faulty = engine.Pair(side.Model(), lambda: side.Model(epsilon=1e-4), numpy_framework["inputs"])
    found = engine.audit(faulty, quiet=True)
    assert found.verdict == "different"
    assert found.localisation.path == "second.norm"


NORM_EPSILON = 1e-5


class Norm:
    """What the fault's line needs of the module that it is planted in."""

    def call(self):
        return NORM_EPSILON


class Bench:
    """What planting needs of a bench."""

    def __init__(self, path):
        self.modules = [{path: Norm()}]


def test_a_fault_is_planted_and_goes_away():
    names = run("A fault")
    bench = Bench(names["NORM"])
    (norm,) = bench.modules[0].values()
    with names["FAULT"].plant(bench):
        assert norm.call() == 1e-4
    assert norm.call() == 1e-5
    kept = [one for one in FAULTS if one.places == (names["NORM"],)]
    assert (kept[0].family, kept[0].stage) == (names["FAULT"].family, names["FAULT"].stage)
    assert names["FAULT"].id not in {one.id for one in FAULTS}


def test_a_family_is_found_by_its_configuration(monkeypatch):
    names = run("A second model")
    with pytest.raises(LookupError):
        family.family_of(names["OtherConfig"]())
    monkeypatch.setattr(family, "FAMILIES", (*family.FAMILIES, names["OTHER"]))
    assert family.family_of(names["OtherConfig"]()) is names["OTHER"]


def test_an_output_that_is_not_as_shown_is_noticed(monkeypatch):
    monkeypatch.setitem(globals(), "blocks", lambda chapter: ["print('a')\n", "b\n"])
    with pytest.raises(AssertionError):
        run("A framework")
