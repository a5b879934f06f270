"""The README begins with a stranger's pair: its file is written, its command run."""

import re
import shlex

import pytest

from parity_tests.docs.documents import text_of


def chapter() -> dict[str, str]:
    """The blocks of the first chapter, by language."""
    text = text_of("README.md").partition("\n## Two models, one command\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^```(\w+)\n(.*?)^```$", text, re.S | re.M))


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The working folder has the file of the README."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "compare.py").write_text(chapter()["python"])
    return tmp_path


def test_the_first_command_names_the_line_at_fault(written, parity):
    status, out, err = parity(*shlex.split(chapter()["sh"])[1:])
    assert status == 1, err
    assert out.splitlines()[-1] == chapter()["text"].strip()


def test_the_mended_pair_is_equal(written, parity):
    file = written / "mended.py"
    text = (written / "compare.py").read_text()
    file.write_text(text.replace("LayerNormalization()", "LayerNormalization(epsilon=1e-5)"))
    assert parity("audit", "--pair", "mended.py:pair", "--execution", "eager")[0] == 0


def test_a_match_is_printed_and_what_is_no_pair_is_refused(written, parity):
    status, out, _ = parity("match", "compare.py:pair")
    assert status == 0
    assert '"layer_norm": "norm",' in out
    for source, fact in (
        ("compare.py:nothing", "compare.py has no `nothing`"),
        ("absent.py:pair", "absent.py is no file"),
        ("compare.py:tokens", "compare.py:tokens is no pair"),
        ("nowhere.at.all:pair", "there is no module nowhere.at.all"),
        ("compare", "'compare' names nothing"),
    ):
        status, _, err = parity("audit", "--pair", source)
        assert (status, fact in err) == (2, True), err
    status, _, err = parity("audit", "--pair", "compare.py:pair", "--config", "tiny")
    assert status == 2
    assert err.startswith("parity: --pair does not go with --config\n")


def test_a_new_pair_is_a_file_that_can_be_completed(written, parity):
    status, _, err = parity("new-pair", "compare.py:Block", "compare.py:Port", "--file", "pair.py")
    assert status == 0, err
    text = (written / "pair.py").read_text()
    compile(text, "pair.py", "exec")
    assert "from compare import Block as Reference" in text
    assert "It takes x." in text
    completed = text.replace("size=(2, 3, 32, 48)", "size=(2, 7, 16)")
    (written / "completed.py").write_text(completed)
    assert parity("match", "completed.py:pair")[0] == 0
    assert parity("new-pair", "compare.py:Block", "compare.py:Port", "--file", "pair.py")[0] == 2
