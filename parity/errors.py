"""The one exception that means "the input is wrong", as opposed to "the program is wrong"."""


class InputError(ValueError):
    """A user's input cannot be used; the message says the fact, the evidence and what to do.

    Command lines print the message without a traceback and exit with 2.
    """

    def __init__(self, fact: str, *details: str) -> None:
        """`fact` is the first line; `details` (evidence, then action) are indented below it."""
        super().__init__("\n  ".join((fact, *details)))
