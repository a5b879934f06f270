"""Nothing is said of a recording that contradicts itself: by no verb, after no edit."""

import copy
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parity.errors import InputError
from parity.records import json_text, strict
from parity_tests.reports import recorded
from parity_tests.reports.results import evaluation_result
from parity_tests.reports.test_comparing_chapters import examples, functions
from parity_tests.reports.test_recordings import RECORDINGS
from parity_tests.reports.test_samples import SAMPLE
from parity_tests.reports.verification import edits
from reports.evidence import DATA, json_bytes
from reports.given import is_given
from reports.kinds import KINDS
from reports.loading import load, of_result
from reports.render import write_report
from reports.verification.recheck import unfounded

MIXER = Path(__file__).parents[1] / "mixer"
FURTHER = (recorded.execution(), recorded.timings(), functions(True).to_json())
SOUND = {
    **{f"{one.kind.name}, recorded": one for one in load([RECORDINGS, SAMPLE]) if one.run is None},
    **{f"{path.stem}, of a Mixer": load([path])[0] for path in sorted(MIXER.glob("*.json"))},
    **{f"{one.kind.name}, made": one for one in map(of_result, (*recorded.results(), *FURTHER))},
    "examples, made": of_result(examples(True).to_json()),
    "audit, with errors in place": of_result(recorded.audit(1e6, None)),
}


def content(one):
    return json.loads(one.files[one.main])


def loose(one):
    """The places of a recording that follow from others in it."""
    return [place for place in edits.leaves(content(one)) if not is_given(one.kind.taken, place)]


LOOSE = {name: loose(one) for name, one in SOUND.items()}
DERIVED = sorted(name for name, places in LOOSE.items() if places)


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_recording_is_believed(name):
    assert unfounded([SOUND[name]]) == []


def test_recordings_of_every_kind_are_edited():
    """But of two: a receipt is hashes, and what a run says of itself follows from nothing."""
    edited = {SOUND[name].kind.name for name in DERIVED}
    assert edited | {"receipt", "run"} == {kind.name for kind in KINDS.values()}


def refuted(result):
    """Whether a recording is refused, or found to contradict itself."""
    try:
        return bool(unfounded([of_result(result)]))
    except InputError:
        return True


@settings(max_examples=200)
@given(st.sampled_from(DERIVED), st.integers(0, 10**9), st.integers(0, 10**3))
def test_every_edit_of_what_follows_is_found(name, place, how):
    one, places = SOUND[name], LOOSE[name]
    place = places[place % len(places)]
    assert refuted(edits.edited(content(one), place, how)), (place, how)


@pytest.fixture(scope="module")
def sound_reports(tmp_path_factory):
    """A report of each sound recording, made when it is first asked for."""
    made = {}

    def report_of(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("sound")
            write_report([SOUND[name]], made[name])
        return made[name]

    return report_of


def with_evidence(report, content, folder):
    """A report whose evidence is another, and whose list of evidence says so."""
    shutil.copytree(report, folder)
    (path,) = (path for path in (folder / "evidence").rglob("*.json"))
    document = (folder / DATA).read_text(encoding="utf-8")
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(content)
    after = hashlib.sha256(content).hexdigest()
    (folder / DATA).write_text(document.replace(before, after), encoding="utf-8")
    return folder


@pytest.mark.slow
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(DERIVED), st.integers(0, 10**9), st.integers(0, 10**3))
def test_every_edit_is_caught_by_every_verb(
    sound_reports, tmp_path_factory, parity, name, place, how
):
    one, places = SOUND[name], LOOSE[name]
    place = places[place % len(places)]
    folder = tmp_path_factory.mktemp("edited")
    edited = json.dumps(edits.edited(content(one), place, how)).encode()
    (folder / "edited.json").write_bytes(edited)
    (folder / "sound.json").write_bytes(one.files[one.main])
    lying = with_evidence(sound_reports(name), edited, folder / "lying")
    for words in (
        ("report", folder / "edited.json", "--out", folder / "out"),
        ("compare", folder / "sound.json", folder / "edited.json"),
        ("verify", lying),
    ):
        status, out, err = parity(*words)
        named = "but should be" in out if status == 1 else "parity: " in err
        assert (status in (1, 2), named) == (True, True), (words, place, how)
        assert "acceptable? Yes" not in out
        assert "Traceback" not in err
    assert not (folder / "out").exists()
    shutil.rmtree(folder)


def test_a_verdict_of_a_place_is_that_of_the_module_that_ran_alone():
    """An edit that chance seldom finds: the words of a verdict, where no number is another."""
    sound = content(SOUND["faults, of a Mixer"])
    for name, value in (("key", "head"), ("key", "stem:output"), ("claim", "same_precision")):
        place = ("localisations", 1, "verdicts", 0, name)
        edited = copy.deepcopy(sound)
        edits.at(edited, place[:-1])[name] = value
        found = unfounded([of_result(edited)])
        assert found, (name, value)
        told = "localisations[1] (blocks.1.channels).verdicts[0]"
        assert all(one.place.startswith(told) for one in found), found


def test_what_is_taken_as_recorded_is_less_than_what_is_found():
    """The twin: not all of a recording of claims is declared as given."""
    for name in DERIVED:
        claims = len(content(SOUND[name]).get("claims", ()))
        assert len(LOOSE[name]) >= 5 * claims


def scaled(claim, times):
    for case in claim["measured"]["cases"]:
        case[1] = {name: [value * times, base] for name, (value, base) in case[1].items()}


def lied(name):
    """A recording of a Mixer with three faults, with one lie."""
    result = content(SOUND["faults, of a Mixer"])
    sound = content(SOUND["equal, of a Mixer"])
    claims = {one["id"]: one for one in sound["claims"]}
    if name == "measurements times 1e9":
        scaled(claims["same_function"], 1e9)
        return sound
    if name == "measurements without a number":
        scaled(claims["same_function"], float("nan"))
        return sound
    if name == "measurements beyond all numbers":
        scaled(claims["same_function"], float("inf"))
        return sound
    if name == "first divergence elsewhere":
        result["first_divergence"] = "head"
    elif name == "no place":
        result["localisations"] = []
    elif name == "a place less":
        del result["localisations"][1]
    elif name == "places in another order":
        result["localisations"] = result["localisations"][::-1]
    elif name == "another cause":
        result["localisations"][0]["cause"] = "the weather"
    elif name == "another module":
        result["localisations"][1]["path"] = "stem"
    elif name == "fewer tensors":
        result["taps"] -= 1
    elif name == "another worst tensor":
        result["float64"]["worst_tap"] = "stem:output"
    elif name == "all is well":
        result["verdict"] = "equal"
    return result


LIES = (
    "measurements times 1e9",
    "measurements without a number",
    "measurements beyond all numbers",
    "first divergence elsewhere",
    "no place",
    "a place less",
    "places in another order",
    "another cause",
    "another module",
    "fewer tensors",
    "another worst tensor",
    "all is well",
)


@pytest.mark.parametrize("lie", LIES)
def test_each_verb_names_a_lie_and_says_nothing_else(lie, tmp_path, parity):
    result = lied(lie)
    path = tmp_path / "audit.json"
    path.write_text(json.dumps(result))  # as Python writes it: NaN and Infinity as they are
    truth = MIXER / "equal.json"
    verbs = {
        "report": ("report", path, "--out", tmp_path / "out"),
        "compare": ("compare", truth, path),
        "explain": ("explain", path),
    }
    for verb, words in verbs.items():
        status, out, _ = parity(*words)
        assert (status, "but should be" in out) == (1, True), (verb, out)
        assert "Yes" not in out
        assert "verdict: no regression" not in out
        told = json.loads(parity(*words, "--json")[1])
        assert (told["verdict"], bool(told["problems"])) == ("refuted", True)
    assert not (tmp_path / "out").exists()
    write_report([of_result(json.loads(json_text(strict(result))))], tmp_path / "lying")
    status, out, _ = parity("verify", tmp_path / "lying")
    assert status == 1, out


def test_what_was_lied_of_is_believed_without_the_lie(tmp_path, parity):
    """The twin: the same verbs on the same recordings."""
    for name, status in (("faults", 1), ("equal", 0)):
        path = MIXER / f"{name}.json"
        words = ("report", path, "--out", tmp_path / name)
        said, out, _ = parity(*words)
        assert (said, "but should be" in out) == (status, False), out
        assert parity("verify", tmp_path / name)[0] == 0
        assert parity("compare", path, path)[0] == 0


def test_verify_says_what_it_took_as_recorded(tmp_path, parity):
    write_report(load([MIXER / "faults.json"]), tmp_path)
    _, out, _ = parity("verify", tmp_path)
    (line,) = (line for line in out.splitlines() if line.startswith("taken as recorded: "))
    for words in ("versions, machine and hashes", "the runs that looked for places and causes"):
        assert words in line
    given = json.loads(parity("verify", tmp_path, "--json")[1])["given"]
    assert "; ".join(given) in line


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report(load([RECORDINGS]), folder)
    return folder


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(0, 10**9))
def test_evidence_of_a_report_that_was_touched_is_refused(report, tmp_path_factory, file, place):
    folder = tmp_path_factory.mktemp("edited") / "report"
    shutil.copytree(report, folder)
    files = sorted((folder / "evidence").iterdir())
    path = files[file % len(files)]
    text = path.read_bytes()
    digits = [index for index, letter in enumerate(text) if letter in b"0123456789"]
    at = digits[place % len(digits)]
    path.write_bytes(text[:at] + (b"7" if text[at : at + 1] != b"7" else b"3") + text[at + 1 :])
    for given_path in (folder, folder / "evidence", path):
        try:
            assert unfounded(load([given_path]))
        except InputError:
            continue


SECRET = b"\x89PNG secret of somebody else"


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("{outside}/secret.png", "an absolute path"),
        ("../secret.png", "a path to somewhere else"),
        ("worst/../../secret.png", "a path to somewhere else"),
        ("linked.png", "a link"),
        ("linked/secret.png", "a link"),
        ("worst\\..\\secret.png", "a path to somewhere else"),
    ],
)
def test_no_name_in_evidence_leads_out_of_its_folder(name, word, tmp_path, parity):
    (tmp_path / "secret.png").write_bytes(SECRET)
    own = tmp_path / "evaluation"
    own.mkdir()
    os.symlink(tmp_path / "secret.png", own / "linked.png")
    os.symlink(tmp_path, own / "linked")
    result = {**evaluation_result(), "pictures": [name.format(outside=tmp_path)]}
    (own / "evaluation.json").write_bytes(json_bytes(result))
    for words in (("report", own, "--out", tmp_path / "out"), ("compare", own, own)):
        status, _, err = parity(*words)
        assert (status, word in err) == (2, True), err
    assert not (tmp_path / "out").exists()


def test_a_link_in_a_folder_of_evidence_is_not_followed(tmp_path, parity):
    (tmp_path / "elsewhere.json").write_text((MIXER / "equal.json").read_text())
    folder = tmp_path / "runs"
    folder.mkdir()
    os.symlink(tmp_path / "elsewhere.json", folder / "audit.json")
    status, _, err = parity("report", folder, "--out", tmp_path / "out")
    assert (status, "a link, which is not followed" in err) == (2, True)
    write_report(load([MIXER / "equal.json"]), tmp_path / "report")
    (found,) = (tmp_path / "report" / "evidence").iterdir()
    found.unlink()
    os.symlink(tmp_path / "elsewhere.json", found)
    status, out, _ = parity("verify", tmp_path / "report")
    assert (status, "is a link" in out) == (1, True)


def test_a_picture_that_lies_beside_is_taken(tmp_path, parity):
    """The twin: a name in the folder is followed."""
    own = tmp_path / "evaluation"
    shutil.copytree(SAMPLE / "evidence" / "06-evaluation", own)
    status, _, err = parity("report", own, "--out", tmp_path / "out")
    assert status == 0, err
    assert list((tmp_path / "out" / "evidence").rglob("*.png"))


def test_an_infinite_limit_shows_nothing():
    from parity.claims import claim
    from parity.measurements import Largest

    result = copy.deepcopy(recorded.training_step())
    made = claim("train_losses", "Losses", Largest({"a": 1e9}, float("inf")), "none", "run")
    result["claims"] = [made.to_json()]
    assert any("a limit that is a number" in one.expected for one in unfounded([of_result(result)]))
