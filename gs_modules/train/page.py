"""One HTML page that needs nothing but itself: a document, and what is put into it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources

import matplotlib.image
import numpy as np


def document(title: str, subtitle: str, sections: Iterable[str]) -> str:
    """The whole page; browsers are told to fetch nothing and to run no script.

    Args:
        title: heading, and name of the tab.
        subtitle: a line below it.
        sections: HTML, of ``section``.
    """
    style = resources.files("gs_modules.train").joinpath("page.css").read_text("utf-8")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<header>\n<h1>{escape(title)}</h1>\n"
        f"<p>{escape(subtitle)}</p>\n</header>\n<main>\n{''.join(sections)}</main>\n"
        "</body>\n</html>\n"
    )


def section(heading: str, *content: str, note: str = "") -> str:
    """A part of the page under a heading; ``note`` says what is to be seen."""
    said = f"<p>{escape(note)}</p>\n" if note else ""
    body = "".join(f"{part}\n" for part in content)
    return f"<section>\n<h2>{escape(heading)}</h2>\n{said}{body}</section>\n"


def beside(*sections: str) -> str:
    """Sections in two columns where there is room."""
    return f'<div class="two">\n{"".join(sections)}</div>\n'


def grid(parts: Iterable[str]) -> str:
    """Figures beside each other where there is room."""
    return "\n".join(['<div class="grid">', *parts, "</div>"])


def key_figures(figures: Mapping[str, str]) -> str:
    """The few numbers that one looks for first."""
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in figures.items()
    )
    return f'<dl class="key">{items}</dl>'


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first cell of a row is its heading."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        f"{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def bars(shares: Mapping[str, float]) -> str:
    """Shares of 1 by name, each as a number and a bar."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{share:.0%}</td>'
        f'<td><span class="bar" style="width: {share:.1%}"></span></td></tr>'
        for name, share in shares.items()
    )
    return f'<div class="scroll bars"><table><tbody>{rows}</tbody></table></div>'


def folded(summary: str, content: str) -> str:
    """Content that is shown when asked for."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def text(content: str) -> str:
    """Text as it is, line by line."""
    return f"<pre>{escape(content)}</pre>"


def picture(
    pixels: np.ndarray,
    alt: str,
    *,
    colours: str = "gray",
    high: float = 1.0,
    width: float = 32.0,
) -> str:
    """Numbers ``[rows, columns]`` as an image that is no wider than there is room.

    Args:
        pixels: from 0 to ``high``; NaN is transparent.
        alt: what is to be seen, for who cannot see it.
        colours: a colour map of matplotlib's.
        high: the brightest.
        width: the widest, in rem: heights of a letter.
    """
    png = io.BytesIO()
    matplotlib.image.imsave(png, pixels, cmap=colours, vmin=0, vmax=high, format="png")
    data = base64.b64encode(png.getvalue()).decode()
    rows, columns = pixels.shape
    return (
        f'<img src="data:image/png;base64,{data}" width="{columns}" height="{rows}" '
        f'style="max-width: {width:g}rem" alt="{escape(alt)}">'
    )
