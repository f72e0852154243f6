"""YAML in and out: plain values that know where they were written.

What PyYAML lacks for this: the numbers and booleans of YAML 1.2 (it reads `1e-3` as text and `no`
as False), the lines of values, an error for a repeated key, and limits. Its parser is written in
Python and slow; the limits keep the worst document below a second.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import yaml

MAX_BYTES = 100_000
MAX_DEPTH = 20
MAX_NODES = 5_000

KeyPath = tuple[str | int, ...]
"""Keys and list positions from the top: `("model", "hidden", 0)`."""


class YamlError(Exception):
    """A document refused as a whole; `line` is None where no line is to blame."""

    def __init__(self, reason: str, line: int | None = None):
        super().__init__(reason)
        self.reason = reason
        self.line = line


class Parsed(NamedTuple):
    """A YAML document. Mappings are dicts whose keys are text as written, lists are tuples.

    Of a repeated key the first value is kept; `repeated` has its path and its later line.
    """

    value: Any
    lines: dict[KeyPath, int]
    repeated: list[tuple[KeyPath, int]]


def parse(text: str) -> Parsed:
    """The YAML document in a text; a `YamlError` where it is refused."""
    try:
        loader = yaml.SafeLoader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(f"character U+{error.character:04X} is not allowed", line) from None
    try:
        return _Reader(loader).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = ": ".join(part for part in (error.context, error.problem) if part)
        raise YamlError(reason, mark.line + 1 if mark else None) from None
    except (ValueError, OverflowError):  # "\U99999999" in PyYAML, half a surrogate pair in ours
        raise YamlError("a number or an escaped character out of range", loader.line + 1) from None


def write(value: Any) -> str:
    """`value` as YAML that `parse` reads as the same value, each list in one line."""
    return yaml.dump(value, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=math.inf)


def shown(value: Any) -> str:
    """`value` for a message, in at most 60 characters."""
    if isinstance(value, tuple):
        text = f"[{', '.join(map(shown, value))}]"
    elif isinstance(value, dict):
        text = "keys and values"
    elif value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    else:
        text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class _Reader:
    # Events and not `compose`: an alias or a tag is refused before anything is built from it.
    def __init__(self, loader: yaml.SafeLoader):
        self._loader = loader
        self._nodes = 0
        self._lines: dict[KeyPath, int] = {}
        self._repeated: list[tuple[KeyPath, int]] = []

    def document(self) -> Parsed:
        value = None
        self._loader.get_event()
        if not self._loader.check_event(yaml.StreamEndEvent):
            self._loader.get_event()
            value = self._node(())
            self._loader.get_event()
            if not self._loader.check_event(yaml.StreamEndEvent):
                _refuse(self._loader.get_event(), "several documents, expected one")
        return Parsed(value, self._lines, self._repeated)

    def _node(self, path: KeyPath) -> Any:
        event = self._event()
        self._lines.setdefault(path, event.start_mark.line + 1)
        if isinstance(event, yaml.ScalarEvent):
            return scalar(event.value) if event.implicit[0] else event.value
        if len(path) >= MAX_DEPTH:
            _refuse(event, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not self._loader.check_event(yaml.SequenceEndEvent):
                items.append(self._node((*path, len(items))))
            self._loader.get_event()
            return tuple(items)
        mapping = {}
        while not self._loader.check_event(yaml.MappingEndEvent):
            key, line = self._mapping_key()
            if key in mapping:
                self._repeated.append(((*path, key), line))
            self._lines.setdefault((*path, key), line)
            mapping.setdefault(key, self._node((*path, key)))
        self._loader.get_event()
        return mapping

    def _mapping_key(self) -> tuple[str, int]:
        event = self._event()
        if not isinstance(event, yaml.ScalarEvent):
            _refuse(event, "a list or a mapping cannot be a key")
        if event.value == "<<" and event.implicit[0]:
            _refuse(event, "merge keys (<<) are not allowed; write the keys out")
        return event.value, event.start_mark.line + 1

    def _event(self) -> Any:
        event = self._loader.get_event()
        self._nodes += 1
        if self._nodes > MAX_NODES:
            _refuse(event, f"more than {MAX_NODES} keys and values, which no config has")
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            _refuse(event, "anchors (&) and aliases (*) are not allowed; write the value out")
        if event.tag is not None:
            _refuse(event, "tags (!) are not allowed; write the plain value")
        if isinstance(event, yaml.ScalarEvent):
            event.value.encode()  # a ValueError for half a surrogate pair
            if "\0" in event.value:
                _refuse(event, "null characters are not allowed")
        return event


def _refuse(event: yaml.Event, reason: str) -> NoReturn:
    raise YamlError(reason, event.start_mark.line + 1)


_CORE_SCHEMA: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile(r"|~|null|Null|NULL"), lambda text: None),
    (re.compile(r"true|True|TRUE|false|False|FALSE"), lambda text: text[0] in "tT"),
    (re.compile(r"[-+]?[0-9]{1,100}"), int),  # Python refuses to read more than 4,300 digits
    (re.compile(r"[-+]?[0-9]{101,}"), str),  # and as a float it would be infinite
    (re.compile(r"0o[0-7]{1,100}|0x[0-9a-fA-F]{1,100}"), lambda text: int(text, 0)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)"), lambda text: float(text.replace(".", ""))),
    (re.compile(r"\.(nan|NaN|NAN)"), lambda text: math.nan),
)


def scalar(text: str) -> str | int | float | bool | None:
    """A plain scalar by the core schema of YAML 1.2.2, section 10.3.2.

    Example:
        >>> [scalar(text) for text in ("1e-3", "12", "true", "no", "~")]
        [0.001, 12, True, 'no', None]
    """
    for pattern, read_as in _CORE_SCHEMA:
        if pattern.fullmatch(text):
            return read_as(text)
    return text


class _Writer(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, value: str) -> yaml.Node:
        # PyYAML quotes what it would misread itself (`no`), not what YAML 1.2 would (`1e-3`).
        style = None if scalar(value) == value else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", value, style)

    def items(self, value: tuple[Any, ...]) -> yaml.Node:
        return self.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)


_Writer.add_representer(str, _Writer.text)
_Writer.add_representer(tuple, _Writer.items)
