"""The Python blocks and the links of a Markdown page."""

import contextlib
import io
import re
from pathlib import Path
from typing import NamedTuple

SHAPE = re.compile(r"^(\w+)\b[^#\n]*=[^#\n]*#.*?(\(\d[\d, ]*\))", re.MULTILINE)


class Snippet(NamedTuple):
    """A block, for tracebacks the page and the line above it, and what it should print."""

    page: Path
    line: int
    code: str
    printed: str = ""

    def compiled(self):
        return compile("\n" * self.line + self.code, str(self.page), "exec")


def snippets(page, language="python"):
    """The blocks of ``page`` that are fenced as ``language``, in order.

    A block fenced as ``text`` right below one is what it prints.
    """
    text = page.read_text()
    block = rf"^```{language}\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?"
    found = re.finditer(block, text, re.DOTALL | re.MULTILINE)
    return [Snippet(page, text.count("\n", 0, m.start(1)), m[1], m[2] or "") for m in found]


def run(snippet, names):
    """Executes ``snippet`` in ``names`` and checks its shapes; returns how many there were.

    A comment such as ``# (32, 8, 16)`` is the shape of the name that the line assigns first. What
    is printed must be what the page shows, however its lines are broken.
    """
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(snippet.compiled(), names)
    assert printed.getvalue().split() == snippet.printed.split(), f"line {snippet.line}"
    promised = SHAPE.findall(snippet.code)
    for name, shape in promised:
        assert str(names[name].shape) == shape, f"{snippet.page.name}: {name}"
    return len(promised)


def linked_files(page):
    """The files that ``page`` links to or shows, but not in code: there ``f[n](x)`` is a call."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\((?!http)([^)#]+)", text)
    links += re.findall(r'src="(?!http)([^"]+)"', text)
    return [page.parent / link for link in links]
