"""Writing to a terminal, a pipe or a log without surprises."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_PIPE_WIDTH = 120  # columns of a table that no terminal shows


def printable(text: str) -> str:
    """Text that changes no terminal and fits every encoding's error handler.

    Control characters (escape sequences in file names, line ends) become spaces, halves of
    surrogate pairs question marks. Marks that join or direct letters stay: emoji and right-to-left
    text need them.
    """
    joiners = "\u200c\u200d\u200e\u200f\u2066\u2067\u2068\u2069"
    plain = "".join(c if c.isprintable() or c in joiners else _replacement(c) for c in text)
    return plain


def make_console(stderr: bool = False) -> "Console":
    """A rich console that prints text as it is: no markup, no highlighting."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def shows_progress(console: "Console") -> bool:
    """Whether a progress bar can be seen; elsewhere it would leave blank lines."""
    return console.is_terminal or console.is_jupyter


def print_error(error: object) -> None:
    """One line on standard error."""
    print(f"error: {printable(str(error))}", file=sys.stderr, flush=True)


def print_warning(text: str) -> None:
    """One line on standard error about what was done all the same."""
    print(f"warning: {printable(text)}", file=sys.stderr, flush=True)


def tolerate_encoding() -> None:
    """Let standard output and error replace what their encoding lacks instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def _replacement(character: str) -> str:
    """What stands for a character that is not printed."""
    return "?" if "\ud800" <= character <= "\udfff" else " "
