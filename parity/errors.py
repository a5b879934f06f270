"""The one exception that means "the input is wrong", as opposed to "the program is wrong"."""

_LONGEST = 4000


class InputError(ValueError):
    """A user's input cannot be used; the message says the fact, the evidence and what to do.

    Command lines print the message without a traceback and exit with 2.
    """

    def __init__(self, fact: str, *details: str | Exception) -> None:
        """`fact` is the first line; `details` (evidence, then action) are indented below it.

        An error among them is told in one line.
        """
        # As they are: another process makes the same of them.
        super().__init__(fact, *map(_in_one_line, details))

    def __str__(self) -> str:
        return "\n  ".join(map(printable, self.args))


def _in_one_line(detail: str | Exception) -> str:
    return "; ".join(detail.args) if isinstance(detail, InputError) else str(detail)


def printable(text: str, longest: int | None = _LONGEST) -> str:
    """`text` as it can be printed anywhere: no line of its own, no control, no half of a letter.

    What is in a message may come from a file that somebody else wrote. Texts of more than
    `longest` letters are cut.
    """
    text = str(text)
    if longest is not None and len(text) > longest:
        text = f"{text[:longest]}..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
