"""A report is verified from its evidence: every edit is caught and named, without a framework."""

import copy
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.errors import InputError
from parity_tests.reports import recorded
from reports.checks import same
from reports.loading import of_result
from reports.render import write_report
from reports.verification.recheck import recheck
from reports.verification.verify import verify

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report(recorded.results(), folder)
    return folder


def test_an_untouched_report_is_verified(report, parity):
    status, out, _ = parity("verify", report)
    assert status == 0, out
    assert out.splitlines()[-1] == "verified: every file is what the evidence says"
    for name in ("report.html", "report.json"):
        assert parity("verify", report / name)[0] == 0


def test_a_report_whose_claims_fail_is_verified_too(tmp_path, parity):
    write_report([recorded.audit(worst=1e6)], tmp_path)
    status, out, _ = parity("verify", tmp_path, "--json")
    result = json.loads(out)
    assert (status, result["verdict"], result["failing"]) == (0, "verified", 1)


def test_verifying_loads_no_framework(report):
    program = (
        "import sys\nfrom replication.cli import main\n"
        f"sys.argv = ['parity', 'verify', {str(report)!r}, '--limit', 'cap=1']\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "print(sorted({'torch', 'tensorflow', 'tf_keras', 'jax'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "[]"


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _digit(content, place):
    found = [match.start() for match in re.finditer(rb"[0-9]", content)]
    at = found[place % len(found)]
    new = b"0123456789"[(content[at] - 47) % 10 : (content[at] - 47) % 10 + 1]
    return content[:at] + new + content[at + 1 :]


def _letter(content, place):
    found = [match.start() for match in re.finditer(rb"[a-z]", content)]
    at = found[place % len(found)]
    return content[:at] + (b"q" if content[at : at + 1] != b"q" else b"p") + content[at + 1 :]


def _line(content, place):
    lines = content.splitlines(keepends=True)
    at = place % len(lines)
    return b"".join(lines[:at] + lines[at + 1 :])


def _word(content, place):
    for old, new in ((b"holds", b"fails"), (b"equal", b"different"), (b"true", b"false")):
        if content.count(old) and place % 3:
            return content.replace(old, new, 1)
    return content + b" "


EDITS = (_digit, _letter, _line, _word)


@settings(max_examples=50)
@given(
    file=st.integers(0, 10**6), edit=st.sampled_from((*EDITS, None)), place=st.integers(0, 10**9)
)
def test_every_single_edit_is_caught_and_named(report, tmp_path_factory, file, edit, place):
    folder = tmp_path_factory.mktemp("edited") / "report"
    shutil.copytree(report, folder)
    path = files_of(folder)[file % len(files_of(folder))]
    if edit is None:
        path.unlink()
    else:
        path.write_bytes(edit(path.read_bytes(), place))
    found = verify(folder)
    name = path.relative_to(folder).as_posix()
    named = [one for one in found.problems if one.file == name]
    assert named, f"{name}, {edit}: {found.problems[:2]}"
    for one in named:
        assert one.place
        assert one.expected != one.found
        assert "\n" not in str(one)


def replace_in(path, old, new):
    text = path.read_text()
    assert text.count(old) >= 1
    path.write_text(text.replace(old, new, 1))


def test_an_edited_cell_is_named_by_table_row_and_column(report, tmp_path, parity):
    folder = tmp_path / "report"
    shutil.copytree(report, folder)
    text = (folder / "report.html").read_text()
    row = re.findall(r"<td[^>]*>backbone\.stem\.conv1:input</td>.*?</tr>", text, re.S)[-1]
    cell = re.search(r'<td class="number"[^>]*>([^<]+e-1[56])</td>', row).group(1)
    (folder / "report.html").write_text(text.replace(row, row.replace(f">{cell}<", ">1.0e-20<", 1)))
    status, out, _ = parity("verify", folder)
    assert status == 1
    (line,) = (line for line in out.splitlines() if line.startswith("report.html: "))
    assert "table 'Every compared tensor in execution order', row 3, column " in line
    assert line.endswith(f"is '1.0e-20', but should be '{cell}'")


def test_an_edited_line_of_the_twin_and_number_of_the_data_are_named(report, tmp_path):
    folder = tmp_path / "report"
    shutil.copytree(report, folder)
    replace_in(folder / "report.md", "| holds |", "| fails |")
    replace_in(folder / "report.json", '"cases": 12,', '"cases": 13,')
    twin, data = verify(folder).problems[::-1]
    if twin.file != "report.md":
        twin, data = data, twin
    assert twin.place.startswith("line ")
    assert "column 'Verdict'" in twin.place
    assert (twin.expected, twin.found) == ("'holds'", "'fails'")
    assert data.place == "claims[0] (weights).cases"
    assert str(data).endswith("is 13, but should be 12")


def test_evidence_that_is_missing_or_not_listed_is_named(report, tmp_path):
    folder = tmp_path / "report"
    shutil.copytree(report, folder)
    (folder / "evidence" / "01-audit.json").rename(folder / "evidence" / "09-audit.json")
    texts = [str(one) for one in verify(folder).problems]
    assert any(text.startswith("evidence/01-audit.json: the file is missing") for text in texts)
    assert any(text.startswith("evidence/09-audit.json: the file is not listed") for text in texts)


def test_a_wrong_name_in_the_list_of_evidence_is_a_fault_of_the_list(report, tmp_path):
    folder = tmp_path / "report"
    shutil.copytree(report, folder)
    replace_in(
        folder / "report.json",
        '"file": "evidence/01-audit.json", "sha256"',
        '"file": "evidence/11-audit.json", "sha256"',
    )
    assert any(
        one.file == "report.json" and "evidence/11-audit.json" in one.found
        for one in verify(folder).problems
    )


def changed(result, places, value):
    """A copy of a result with one value changed; `places` are keys and indices."""
    result = copy.deepcopy(result)
    target = result
    for place in places[:-1]:
        target = target[place]
    assert target[places[-1]] != value
    target[places[-1]] = value
    return result


FALSE = {  # by words that must name it: a lie in a result, told consistently in the whole report
    "claims[1] (pairing).verdict": ("audit", ("claims", 1, "verdict"), "fails"),
    "claims[2] (same_function).value": ("audit", ("claims", 2, "value"), 1e-3),
    "claims[2] (same_function).limit": ("audit", ("claims", 2, "limit"), 9.0),
    "claims[2] (same_function).cases": ("audit", ("claims", 2, "cases"), 700),
    "claims[2] (same_function).evidence_sha256": (
        "audit", ("claims", 2, "evidence_sha256"), "00" * 32,
    ),
    "claims[2] (same_function).measured": ("audit", ("claims", 2, "measured"), None),
    "claims[7] (isolated_function).value": ("audit", ("claims", 7, "value"), 1e-3),
    "claims[7] (isolated_function).evidence_sha256": (
        "audit", ("claims", 7, "measured", "cases", 0, 0), "backbone.stem:output",
    ),
    "claims[0] (weights)": ("audit", ("claims", 0, "measured", "found"), ["conv1.weight"]),
    "layers[3] (backbone.stem.conv1:output).float64.gap": (
        "audit", ("layers", 3, "float64", "gap"), 1e-17,
    ),
    "layers[3] (backbone.stem.conv1:output).float64.limit": (
        "audit", ("layers", 3, "float64", "limit"), 1e-3,
    ),
    "layers[0] (model:input).float32.xla.ratio": (
        "audit", ("layers", 0, "float32", "xla", "ratio"), 0.01,
    ),
    "verdict": ("audit", ("verdict",), "different"),
    "taps": ("audit", ("taps",), 708),
    "float64.worst_gap": ("audit", ("float64", "worst_gap"), 1e-30),
    "float32.eager.worst_ratio": ("audit", ("float32", "eager", "worst_ratio"), 0.1),
    "unpaired": ("audit", ("unpaired", "port"), ["criterion:output"]),
    "claims[1] (train_losses)": (
        "training-step", ("claims", 1, "measured", "pairs", "loss_mask", 0), 2.6,
    ),
    "comparison.unexplained": ("evaluation", ("comparison", "unexplained"), 3),
    "comparison.images_that_differ": ("evaluation", ("comparison", "images_that_differ"), 0),
}  # fmt: skip


@pytest.mark.parametrize("place", FALSE)
def test_a_lie_told_throughout_does_not_follow_from_the_measurements(tmp_path, place):
    kind, places, value = FALSE[place]
    results = dict(zip(("audit", "training-step", "evaluation"), recorded.results(), strict=True))
    results[kind] = changed(results[kind], places, value)
    write_report(list(results.values()), tmp_path)
    listed = json.loads((tmp_path / "report.json").read_text())["evidence"]
    for one in listed:
        content = (tmp_path / one["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == one["sha256"]
    problems = verify(tmp_path).problems
    assert any(one.place.startswith(place) and kind in one.file for one in problems), problems


def test_a_hash_that_was_corrected_for_edited_evidence_does_not_help(report, tmp_path):
    folder = tmp_path / "report"
    shutil.copytree(report, folder)
    path = folder / "evidence" / "01-audit.json"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    replace_in(path, '"verdict": "holds"', '"verdict": "fails"')
    after = hashlib.sha256(path.read_bytes()).hexdigest()
    replace_in(folder / "report.json", before, after)
    files = {one.file for one in verify(folder).problems}
    assert {"evidence/01-audit.json", "report.html", "report.md", "report.json"} <= files


@pytest.mark.parametrize("failed", [(), ("same_function", "train_update")])
def test_clean_audits_are_reported_and_verified(tmp_path, failed):
    result = recorded.clean_audits(failed)
    write_report([result], tmp_path)
    found = verify(tmp_path)
    assert found.problems == ()
    assert len(found.failing) == (1 if failed else 0)
    twin = (tmp_path / "report.md").read_text()
    assert f"3 audits of a port that is right, {1 if failed else 0} false alarms" in twin
    assert ("same\\_function; train\\_update" in twin) == bool(failed)
    lie = {**result, "alarms": 2}
    assert [place for place, *_ in recheck(of_result(lie))] == ["alarms"]


def test_sound_results_and_honest_failures_pass_the_recheck():
    for one in (*recorded.results(), recorded.audit(1e6, 1e6), recorded.training_step(2.6)):
        assert recheck(of_result(one)) == []


@pytest.mark.parametrize(
    ("words", "failing"),
    [
        (("--limit", "float32_ratio=0.001"), 3),
        (("--limit", "floor_factor=0.001", "--limit", "loss_gap=0"), 3),
        (("--limit", "floor_factor=64"), 0),
    ],
)
def test_other_limits_judge_again(report, parity, words, failing):
    status, out, _ = parity("verify", report, *words)
    assert status == (1 if failing else 0)
    assert out.count("fails by these limits, recorded as holds") == failing
    result = json.loads(parity("verify", report, *words, "--json")[1])
    assert result["failing"] == failing
    assert result["problems"] == []


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (("--limit", "speed=3"), "--limit has 'speed'"),
        (("--limit", "cap"), "--limit cap is ''"),
        (("--limit", "cap=nan"), "--limit cap is 'nan'"),
        (("--limit", "cap=-1"), "--limit cap is '-1'"),
    ],
)
def test_wrong_limits_are_refused(report, parity, words, fact):
    status, out, err = parity("verify", report, *words)
    assert (status, out) == (2, "")
    assert fact in err


def test_what_is_no_report_is_refused(tmp_path):
    (tmp_path / "other.txt").write_text("nothing")
    for path in (tmp_path, tmp_path / "other.txt", tmp_path / "missing"):
        with pytest.raises(InputError, match="is no report"):
            verify(path)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (1.0, 1.0 + 1e-15, True),
        (1.0, 1.0 + 1e-9, False),
        (float("nan"), float("nan"), True),
        (float("nan"), 0.0, False),
        (True, 1, False),
        (None, 0, False),
        ([1, {"a": 2}], [1, {"a": 2}], True),
        ([1], [1, 2], False),
        ({"a": 1}, {"b": 1}, False),
        ("holds", "fails", False),
    ],
)
def test_same(one, other, equal):
    assert same(one, other) is equal
    assert same(other, one) is equal
