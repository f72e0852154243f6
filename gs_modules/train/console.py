"""What a command says to a person."""

from rich.console import Console


def say(console: Console, text: str) -> None:
    """A line as it is: paths are neither wrapped nor coloured, brackets are no markup."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)
