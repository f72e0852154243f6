"""What `gs-modules tune` is told: a base config, a study, and the keys to search."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from gs_modules.train.config import Config, Option, config_options, flat, to_yaml, type_in_words
from gs_modules.train.config_file import ConfigError, in_words, resolve
from gs_modules.train.sections import Count, Section
from gs_modules.train.spelling import unknown
from gs_modules.train.tune.space import Choices, Range, Search, is_integer, is_number, refusal_of
from gs_modules.train.yaml_source import Source
from gs_modules.train.yaml_text import YamlError, parse, shown, write


class StudyOptions(Section):
    """How the search goes on, and where it is kept."""

    name: str | None = Field(
        default=None, min_length=1, description="in the storage; null: the name of CONFIG"
    )
    trials: Count = Field(default=60, description="trials to finish")
    workers: Count | None = Field(
        default=None, description="processes; null: one for each CPU, at most eight"
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of the sampler")
    sampler: Literal["tpe", "random"] = Field(
        default="tpe", description="tree-structured Parzen estimators, or chance"
    )
    pruner: Literal["median", "halving", "none"] = Field(
        default="median", description="which trials end early, by their evaluations so far"
    )
    storage: str | None = Field(
        default=None,
        description="Optuna's URL of a database; null: a journal in the study's folder",
    )


@dataclasses.dataclass(frozen=True)
class Tuning:
    """A whole study, checked.

    Attributes:
        base: what no trial changes.
        study: how the search goes on.
        search: what trials change.
    """

    base: Config
    study: StudyOptions
    search: Search

    def to_yaml(self) -> str:
        """The resolved YAML; it loads as an equal one."""
        return write(
            {
                "base": self.base.model_dump(),
                "study": {**self.study.model_dump(), "storage": self.shown_storage},
                "search": {key: space.plain() for key, space in self.search.items()},
            }
        )

    @property
    def shown_storage(self) -> str | None:
        """The URL without its password."""
        url = self.study.storage
        if url is None:
            return None
        hidden = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)  # a password may hold any of :/@
        return re.sub(r"(?i)([?&][^=&]*(?:password|secret|token)[^=&]*=)[^&]*", r"\1***", hidden)

    def flat(self) -> dict[str, str]:
        """What must not change while the study goes on: key and value, for people too."""
        return flat_of(self.to_yaml())

    def config_of(self, params: Mapping[str, Any]) -> Config:
        """The config of a trial.

        Raises:
            ConfigError: the values exclude each other.
        """
        source = Source(parse(to_yaml(self.base)).value)
        for key, value in params.items():
            source.override(key, value if isinstance(value, str) else json.dumps(value))
        return resolve(source, check_root=False)


def flat_of(text: str) -> dict[str, str]:
    """`Tuning.flat` of what `Tuning.to_yaml` wrote."""
    sections = parse(text).value
    for free in ("trials", "workers"):
        del sections["study"][free]
    return flat({**sections.pop("base"), **sections}, json.dumps)


@functools.cache
def tune_options() -> dict[str, Option]:
    """Every flag of the command but those of a search: its type, its default and its help."""
    study = {
        f"study.{key}": Option(
            type_in_words(field.annotation), field.default, field.description or ""
        )
        for key, field in StudyOptions.model_fields.items()
    }
    base = {"base": Option("text", {}, "a config file, beside CONFIG or here")}
    return {**study, **base, **config_options()}


def load(
    path: str | os.PathLike[str],
    overrides: Sequence[tuple[str, str]] = (),
    *,
    check_root: bool = True,
) -> Tuning:
    """The study of a YAML file, with flags on top.

    Args:
        path: the file.
        overrides: dotted keys of the study, of its search or of the base config, and their values
            as YAML; the last of a key counts.
        check_root: refuse a data set read from files whose `data.root` is not a folder.

    Raises:
        ConfigError: with everything that is wrong, each where it was written.
    """
    try:
        source = Source.read(path)
    except YamlError as error:
        raise ConfigError([error.reason]) from None
    own = ("base", "study", "search")
    flags = dict(overrides)
    for name in [name for name in flags if name.partition(".")[0] in own]:
        source.override(name, flags.pop(name))
    for key in source.tree.keys() - set(own):
        is_of_base = key in Config.model_fields
        hint = f"{key} belongs to a config; write it under base" if is_of_base else None
        source.refuse((key,), hint or unknown("key", key, own, "a study has"))
    study = _study(source, Path(path).stem)
    base_source = _base(source, Path(path).parent)
    for name, text in flags.items():
        base_source.override(name, text)
    try:
        base = resolve(base_source, check_root=check_root)
    except ConfigError:
        base = None
    if base is not None and base.data.validation == 0:
        base_source.refuse(
            ("data", "validation"),
            "trials are compared by validation images; keep some, such as 237 of digits",
        )
    search = dict(_search(source, base or Config()))
    faults = [*source.faults(), *base_source.faults()]
    if faults or base is None or study is None:
        raise ConfigError(faults)
    return Tuning(base, study, search)


def _study(source: Source, name: str) -> StudyOptions | None:
    values = _mapping(source, "study")
    try:
        study = StudyOptions.model_validate(values)
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            reason = in_words(error)
            if error["type"] == "extra_forbidden":
                reason = unknown("key", error["loc"][0], StudyOptions.model_fields, "a study has")
            source.refuse(("study", *error["loc"][:1]), reason)
        return None
    return study if study.name else study.model_copy(update={"name": name})


def _base(source: Source, folder: Path) -> Source:
    """The base config: the name of a file, or keys and values, on top of a file or not."""
    base = source.tree.get("base")
    if isinstance(base, str):
        file, path, keys = base, ("base",), Source({})
    elif isinstance(base, dict):
        keys = source.section("base")
        file, path = keys.tree.pop("file", None), ("base", "file")
    else:
        if base is not None:
            reason = f"expected the name of a file, or keys and values; got {shown(base)}"
            source.refuse(("base",), reason)
        return Source({})
    if file is None:
        return keys
    try:
        if not isinstance(file, str):
            raise YamlError(f"expected the name of a file, got {shown(file)}")
        found = Source.read(file if source.is_flag(path) else folder / file)
    except YamlError as error:
        source.refuse(path, error.reason)
        return keys
    found.lay(keys)
    return found


def _search(source: Source, base: Config) -> Iterator[tuple[str, Choices | Range]]:
    """The space of each key, those that choose a kind first."""
    spaces: dict[str, Choices | Range] = {}
    given = _mapping(source, "search")
    for key, value in given.items():
        path = ("search", key)
        if key not in config_options():
            source.refuse(path, unknown("key", key, config_options(), "a config has"))
        elif value is None:
            continue
        elif key.startswith("data."):
            source.refuse(path, "trials are compared by the same images; set it under base")
        elif space := _space(source, path, value):
            spaces[key] = space
    if all(value is None for value in given.values()):
        source.refuse(("search",), "expected keys to search, such as 'temperature.end: [0.3, 0.5]'")
    for key in sorted(spaces, key=lambda key: not key.endswith(".kind")):
        reasons = [refusal_of(key, end, spaces, base) for end in spaces[key].ends()]
        for reason in dict.fromkeys(filter(None, reasons)):
            source.refuse(("search", key), reason)
        yield key, spaces[key]


def _space(source: Source, path: tuple[str, str], value: Any) -> Choices | Range | None:
    key = path[1]
    if isinstance(value, tuple):
        if len(value) != len({shown(one) for one in value}) or not value:
            source.refuse(path, f"expected different values, got {shown(value)}")
            return None
        return Choices(value)
    if not isinstance(value, dict):
        source.refuse(path, f"expected a list of values, or low and high; got {shown(value)}")
        return None
    if not is_number(key):
        source.refuse(path, f"expected a list of values: {key} is {config_options()[key].type}")
        return None
    try:
        space = Range.model_validate(value)
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            name = str(error["loc"][0]) if error["loc"] else ""
            reason = in_words(error)
            if error["type"] == "extra_forbidden":
                reason = unknown("key", name, Range.model_fields, "a range has")
            source.refuse((*path, name) if name else path, reason)
        return None
    if is_integer(key) and not all(end.is_integer() for end in (*space.ends(), space.step or 1.0)):
        source.refuse(path, f"expected integers, as {key} is one")
        return None
    return space


def _mapping(source: Source, name: str) -> dict[str, Any]:
    value = source.tree.get(name)
    if not isinstance(value, dict | None):
        source.refuse((name,), f"expected keys and values, got {shown(value)}")
        return {}
    return value or {}
