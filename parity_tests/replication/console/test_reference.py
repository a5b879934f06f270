"""Every verb is documented from its code, and an option means one thing wherever it stands."""

from typing import Annotated

import pytest
import typer

from parity_tests.test_repository import ROOT
from replication.cli import app
from replication.commands import options
from replication.console.reference import commands, complete_help, example, markdown, meanings

SHARED = (
    *("--config", "--config-file", "--pair", "--weights", "--out", "--json", "--threads"),
    *("--size", "--seed", "--limit"),
)
COMMANDS = dict(commands(typer.main.get_group(app)))


def of_many_meanings(found):
    return {name for name in SHARED if len(found.get(name, {"": []})) != 1}


def test_a_shared_option_means_one_thing():
    found = meanings(app)
    assert set(SHARED) <= found.keys()
    assert of_many_meanings(found) == set()


def test_another_meaning_is_noticed():
    """The twin: two verbs with an option of one name for two things."""
    broken = typer.Typer()

    @broken.command()
    def one(size: Annotated[str, typer.Option(help="HxW.")] = "") -> None: ...

    @broken.command()
    def two(size: Annotated[int, typer.Option(help="Longest side.")] = 0) -> None: ...

    assert of_many_meanings(meanings(broken)) == {"--size"}


def test_the_document_is_what_the_code_says():
    path = ROOT / "docs" / "commands.md"
    assert path.read_text(encoding="utf-8") == markdown(app), "made of other code: make commands"


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_help_has_an_example_and_every_exit_status(verb):
    command = COMMANDS[verb]
    assert example(command).startswith(f"parity {verb}")
    text = " ".join(command.help.split())
    assert "Exit status: 0" in text
    assert "2 wrong usage or input, 3 the program itself failed, 130 interrupted." in text


@pytest.mark.parametrize("verb", ["audit", "data scenes", "faults list"])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_asked_for_shortly_too(verb, flag, parity):
    status, out, _ = parity(*verb.split(), flag)
    assert (status, "interrupted" in out) == (0, True)


def test_a_help_without_a_status_gets_one():
    broken = typer.Typer()

    @broken.command()
    def one() -> None:
        """Does it."""

    complete_help(broken)
    (info,) = broken.registered_commands
    assert info.help.startswith("Does it.\n\nExit status: 0 done, 2 wrong usage or input, 3")


def test_what_is_told_as_json_names_its_schema(capsys):
    with pytest.raises(typer.Exit):
        options.end({"a": 1}, True, lambda: "", name="thing")
    assert capsys.readouterr().out == '{"schema": "maskformer-replication/thing/1", "a": 1}\n'
    with pytest.raises(ValueError, match="names no schema"):
        options.end({"a": 1}, True, lambda: "")
