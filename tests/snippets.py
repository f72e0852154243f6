"""The Python blocks and the links of a Markdown page."""

import re
from pathlib import Path
from typing import NamedTuple

SHAPE = re.compile(r"^(\w+)\b[^#\n]*=[^#\n]*#.*?(\(\d[\d, ]*\))", re.MULTILINE)


class Snippet(NamedTuple):
    """A block, and for tracebacks the page and the line above it."""

    page: Path
    line: int
    code: str

    def compiled(self):
        return compile("\n" * self.line + self.code, str(self.page), "exec")


def snippets(page, language="python"):
    """The blocks of ``page`` that are fenced as ``language``, in order."""
    text = page.read_text()
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Snippet(page, text.count("\n", 0, m.start(1)), m[1]) for m in found]


def run(snippet, names):
    """Executes ``snippet`` in ``names`` and checks its shapes; returns how many there were.

    A comment such as ``# (32, 8, 16)`` is the shape of the name that the line assigns first.
    """
    exec(snippet.compiled(), names)
    promised = SHAPE.findall(snippet.code)
    for name, shape in promised:
        assert str(names[name].shape) == shape, f"{snippet.page.name}: {name}"
    return len(promised)


def linked_files(page):
    """The files that ``page`` links to or shows."""
    text = page.read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)", text)
    links += re.findall(r'src="(?!http)([^"]+)"', text)
    return [page.parent / link for link in links]
