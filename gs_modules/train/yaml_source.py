"""A config as it was written: the values of a YAML file, flags on top of them, and their places."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, Self

from gs_modules.train.yaml_text import MAX_BYTES, KeyPath, YamlError, parse


class Source:
    """Values and flags on top of them, where each was written, and what is wrong there."""

    _FLAG = sys.maxsize  # as a line: flags come after every line of the file

    def __init__(
        self, values: Mapping[str, Any], places: Mapping[KeyPath, tuple[int, str]] | None = None
    ):
        self.in_file = dict(values)
        self.tree = {k: dict(v) if isinstance(v, dict) else v for k, v in values.items()}
        self._places = dict(places or {})
        self._over: set[KeyPath] = set()
        self._faults: list[tuple[int, str]] = []

    @classmethod
    def read(cls, file: str | os.PathLike[str]) -> Self:
        """The values of a YAML file.

        Raises:
            YamlError: with the place in its reason, where the file is refused as a whole.
        """
        try:
            parsed = parse(_text(file))
            if not isinstance(parsed.value, dict | None):
                raise YamlError("expected keys and values, such as 'seed: 0'", parsed.lines[()])
        except YamlError as error:
            line = "" if error.line is None else f":{error.line}"
            raise YamlError(f"{file}{line}: {error.reason}") from None
        places = {path: (line, f"{file}:{line}") for path, line in parsed.lines.items()}
        source = cls(parsed.value or {}, places)
        for path, line in parsed.repeated:
            reason = f"repeated key; line {parsed.lines[path]} has it already"
            source._faults.append((line, f"{file}:{line}: {_dotted(path)}: {reason}"))
        return source

    def section(self, name: str) -> Self:
        """The keys of a section as a source of their own."""
        inner = {path[1:]: at for path, at in self._places.items() if path[:1] == (name,)}
        return type(self)(self.tree[name], inner)

    def override(self, name: str, text: str) -> None:
        """Puts the value of the flag `--name`, given as YAML, in the place of the file's."""
        path = tuple(name.split(".", 1))
        self._claim(path, {path: (self._FLAG, f"--{name}")})
        try:
            self._put(path, parse(text).value)
        except YamlError as error:
            self.refuse(path, error.reason)

    def lay(self, upper: Source) -> None:
        """Puts every value of another source in the place of the one here."""
        for section, value in upper.tree.items():
            keys = value if isinstance(value, dict) else {}
            items = [((section, key), item) for key, item in keys.items()]
            for path, item in items or [((section,), value)]:
                places = {p: at for p, at in upper._places.items() if p[: len(path)] == path}
                self._claim(path, places)
                self._put(path, item)

    def _claim(self, path: tuple[str, ...], places: Mapping[KeyPath, tuple[int, str]]) -> None:
        self._places = {p: at for p, at in self._places.items() if p[: len(path)] != path}
        self._places |= places
        self._places.setdefault(path[:1], places[path])
        self._over.add(path)

    def _put(self, path: tuple[str, ...], value: Any) -> None:
        section, *keys = path
        for key in keys:
            if self.tree.get(section) is None:
                self.tree[section] = {}
            if isinstance(self.tree[section], dict):
                self.tree[section][key] = value
        if not keys:
            self.tree[section] = value

    def refuse(self, path: KeyPath, reason: str) -> None:
        """Notes a fault, where the longest known part of its path was written."""
        known = path
        while known and known not in self._places:
            known = known[:-1]
        line, place = self._places.get(known, (0, "config"))
        key = "" if line == self._FLAG and known == path else f": {_dotted(path)}"
        self._faults.append((line, f"{place}{key}: {' '.join(reason.split())}"))

    def is_flag(self, path: KeyPath) -> bool:
        """Whether a flag says this, or what else was put on top."""
        return path in self._over

    def faults(self) -> list[str]:
        """What is wrong, one line each, by the lines of the file and then the flags."""
        return [text for _, text in sorted(self._faults, key=lambda fault: fault[0])]


def _text(file: str | os.PathLike[str]) -> str:
    try:
        with open(file, "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise YamlError(f"cannot be read: {getattr(error, 'strerror', error)}") from None
    if len(content) > MAX_BYTES:
        raise YamlError(f"larger than {MAX_BYTES} bytes, which no config is")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise YamlError("not UTF-8 text", content.count(b"\n", 0, error.start) + 1) from None


def _dotted(path: KeyPath) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{_key(p)}" for p in path).removeprefix(
        "."
    )


def _key(name: str) -> str:
    return name if name.isprintable() and 0 < len(name) <= 60 else repr(name[:60])
