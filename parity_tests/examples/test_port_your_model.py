"""The guide for other models, followed literally: its code is run, its output compared."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

GUIDE = Path(__file__).parent.parent.parent / "docs" / "port_your_model.md"
EXIT = {  # of the commands that the guide runs on its own results
    "parity explain runs/mixer": 1,
    "parity report runs/mended --out report": 0,
    "parity verify report": 0,
    "parity report runs/loss --out loss": 1,
    "parity verify loss": 0,
}
LONG = {"python -m examples.detr.compare --out runs/detr"}  # run by its own test


def blocks() -> list[tuple[str, str]]:
    """(language, content) of every fenced block, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE.read_text(), re.S | re.M)


def test_the_guide_does_what_it_says(tmp_path, monkeypatch, parity):
    monkeypatch.chdir(tmp_path)
    names, printed, run = {"__name__": "guide"}, "", []
    for number, (language, content) in enumerate(blocks()):
        if language == "python":
            output = io.StringIO()
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(io.StringIO()):
                exec(compile(content, f"block {number} of {GUIDE.name}", "exec"), names)
            printed = output.getvalue()
        elif language == "text":
            assert printed == content
        else:
            for command in content.splitlines():
                run.append(command)
                if command not in LONG:
                    status, out, err = parity(*shlex.split(command)[1:])
                    assert status == EXIT[command], out + err
    assert set(run) == EXIT.keys() | LONG
    assert names["result"].verdict == "equal"
    assert (tmp_path / "report" / "report.html").is_file()


def test_every_block_has_a_known_language():
    assert {language for language, _ in blocks()} == {"python", "text", "sh"}
    assert len(re.findall("^```", GUIDE.read_text(), re.M)) == 2 * len(blocks())


def test_a_changed_output_is_noticed(monkeypatch, tmp_path, parity):
    """The guide's own output is what the test compares, not what it happens to print."""
    wrong = [("python", "print('a')\n"), ("text", "b\n")]
    monkeypatch.setattr(f"{__name__}.blocks", lambda: wrong)
    with pytest.raises(AssertionError):
        test_the_guide_does_what_it_says(tmp_path, monkeypatch, parity)
