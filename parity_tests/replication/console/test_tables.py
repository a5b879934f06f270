"""A table loses no column where it is printed: not in a pipe, and not in a small window."""

import pytest
from rich.table import Table

from replication.console.tables import WIDEST, print_table

STRANGE = "a\x1b[31m[bold]b[/bold]\nc\u202e"


def table(columns, text="x" * 30):
    made = Table()
    for number in range(columns):
        made.add_column(f"name{number}")
    made.add_row(*[text] * columns)
    return made


def test_a_pipe_gets_every_column_whole(capsys):
    print_table(table(5), narrow=table(1))
    out = capsys.readouterr().out
    assert out.count("x" * 30) == 5
    assert "name4" in out


def test_long_texts_are_folded_in_a_pipe_not_lost(capsys):
    print_table(table(4, text="x " * 75))
    out = capsys.readouterr().out
    assert out.count("x") == 300
    assert max(map(len, out.splitlines())) <= WIDEST


@pytest.mark.parametrize(("width", "columns"), [(80, 1), (200, 5)])
def test_a_small_window_gets_the_narrow_table(capsys, monkeypatch, width, columns):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a terminal
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(table(5), narrow=table(1))
    assert capsys.readouterr().out.count("x" * 30) == columns


def test_no_control_markup_or_line_of_a_cell_reaches_the_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    print_table(table(2, STRANGE), narrow=table(1, STRANGE))
    out = capsys.readouterr().out
    assert out.count(r"a\x1b[31m[bold]b[/bold]\nc\u202e") == 2
    assert "\u202e" not in out
    assert "\x1b[31m" not in out
