"""Prints tables so that no column is lost, in a terminal of any width and in a pipe."""

from typing import TYPE_CHECKING

from parity.errors import printable

if TYPE_CHECKING:
    from rich.table import Table

WIDEST = 200
"""Columns of a table that does not go to a terminal, where longer texts are folded."""


def print_table(table: "Table", narrow: "Table | None" = None) -> None:
    """Prints a table as wide as it needs; where a terminal has less room, `narrow` in its place.

    What is no letter in a cell, such as a control character or the end of a line, is spelt out.
    """
    from rich.console import Console

    for one in filter(None, (table, narrow)):
        _spell_out(one)

    console = Console(markup=False)
    needed = Console(width=10 * WIDEST, markup=False).measure(table).maximum
    if not console.is_terminal:
        console = Console(width=min(needed, WIDEST), markup=False)
    elif needed > console.width and narrow is not None:
        table = narrow
    console.print(table)


def _spell_out(table: "Table") -> None:
    for column in table.columns:
        column._cells = [
            printable(cell, None) if isinstance(cell, str) else cell for cell in column._cells
        ]
