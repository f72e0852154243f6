"""Names that there are not, answered with the nearest one that there is."""

import difflib
from collections.abc import Iterable
from typing import Any

from gs_modules.train.yaml_text import shown


def unknown(noun: str, got: Any, valid: Iterable[str], there_are: str = "there are") -> str:
    """The reason for refusing ``got``, where one of ``valid`` is expected."""
    if not isinstance(got, str):
        return f"expected one of {', '.join(valid)}, got {shown(got)}"
    meant = nearest(got, valid)
    hint = f"did you mean {meant!r}?" if meant else f"{there_are} {', '.join(valid)}"
    return f"unknown {noun} {shown(got)}; {hint}"


def nearest(got: Any, valid: Iterable[str]) -> str | None:
    """The one of ``valid`` that ``got`` is probably meant for."""
    return next(iter(difflib.get_close_matches(str(got).lower(), list(valid), 1)), None)
