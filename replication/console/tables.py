"""Prints tables so that no column is lost, in a terminal of any width and in a pipe."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

WIDEST = 200
"""Columns of a table that does not go to a terminal, where longer texts are folded."""


def print_table(table: "Table", narrow: "Table | None" = None) -> None:
    """Prints a table as wide as it needs; where a terminal has less room, `narrow` in its place."""
    from rich.console import Console

    console = Console(markup=False)
    needed = Console(width=10 * WIDEST, markup=False).measure(table).maximum
    if not console.is_terminal:
        console = Console(width=min(needed, WIDEST), markup=False)
    elif needed > console.width and narrow is not None:
        table = narrow
    console.print(table)
