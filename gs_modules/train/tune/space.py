"""The space of a search: what each key may be, and which keys a trial has."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, Self

from pydantic import Field, ValidationError, model_validator

from gs_modules.train.config import CHOICES, SECTIONS, Config, config_options
from gs_modules.train.config_file import in_words
from gs_modules.train.sections import Section
from gs_modules.train.spelling import unknown


class Suggests(Protocol):
    """The part of an Optuna trial that a search asks."""

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...
    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None, log: bool
    ) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int: ...


@dataclasses.dataclass(frozen=True)
class Choices:
    """One of some values.

    Attributes:
        values: of the key; lists and texts too.
    """

    values: tuple[Any, ...]

    def suggest(self, trial: Suggests, key: str) -> Any:
        """A value, as JSON where it is a list: Optuna knows none."""
        return trial.suggest_categorical(key, [_of_optuna(value) for value in self.values])

    def ends(self) -> tuple[Any, ...]:
        """The values by which a mistake shows."""
        return self.values

    def holds(self, value: Any) -> bool:
        return value in self.values

    def plain(self) -> Any:
        return self.values


class Range(Section):
    """A number between two ends."""

    low: float = Field(description="least value")
    high: float = Field(description="largest value")
    log: bool = Field(default=False, description="spread over the logarithm")
    step: float | None = Field(
        default=None, gt=0, description="between values; null: 1 for integers, else none"
    )

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got low={self.low} and high={self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be positive where log is true, got low={self.low}")
        if self.log and self.step is not None:
            raise ValueError("step and log exclude each other; leave one out")
        return self

    def suggest(self, trial: Suggests, key: str) -> float:
        """A number, an integer where the key takes only these."""
        if is_integer(key):
            low, high, step = int(self.low), int(self.high), int(self.step or 1)
            return trial.suggest_int(key, low, high, step=step, log=self.log)
        return trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log)

    def ends(self) -> tuple[float, ...]:
        """The values by which a mistake shows."""
        return self.low, self.high

    def holds(self, value: Any) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    def plain(self) -> Any:
        return self.model_dump()


Search = Mapping[str, Choices | Range]
"""Dotted keys of a config, and what each may be; those that choose a kind come first."""


def is_integer(key: str) -> bool:
    """Whether a key of a config takes integers only."""
    return config_options()[key].type == "integer"


def is_number(key: str) -> bool:
    """Whether a range makes sense for a key of a config."""
    return config_options()[key].type in ("integer", "number")


def kinds_of(key: str, search: Search, base: Config) -> dict[str, type[Section]]:
    """The kinds of its section that trials may have and that have this key, with their models."""
    section, _, name = key.partition(".")
    if section not in SECTIONS:
        return {"": Config}
    models = SECTIONS[section]
    if section in CHOICES:
        kinds = search.get(f"{section}.kind") or Choices((getattr(base, section).kind,))
        models = {kind: model for kind, model in models.items() if kind in kinds.ends()}
    return {kind: model for kind, model in models.items() if name in model.model_fields}


def refusal_of(key: str, value: Any, search: Search, base: Config) -> str | None:
    """Why a value can be in no config of this search, whatever the other values."""
    section, _, name = key.rpartition(".")
    if name == "kind":
        known = CHOICES[section]
        is_known = isinstance(value, str) and value in known
        return None if is_known else unknown("kind", value, known)
    kinds = kinds_of(key, search, base)
    if not kinds:
        having = [kind for kind, model in CHOICES[section].items() if name in model.model_fields]
        return (
            f"no {section} of this search has it: {', '.join(having)} would; add one to "
            f"{section}.kind in search, or remove this line"
        )
    if is_integer(key) and isinstance(value, float) and value.is_integer():
        value = int(value)  # an end of a range
    reasons = [_alone(model, kind, name, value) for kind, model in kinds.items()]
    return None if None in reasons else reasons[0]


def _alone(model: type[Section], kind: str, name: str, value: Any) -> str | None:
    """Why a section refuses this value of one key, whatever the others."""
    try:
        model.model_validate(
            {name: value} if "kind" not in model.model_fields else {"kind": kind, name: value}
        )
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            if error["loc"][:1] == (name,):
                return in_words(error)
    return None


def suggest(trial: Suggests, search: Search, base: Config) -> dict[str, Any]:
    """The values of one trial, by dotted key; keys of a kind only where the trial has it."""
    return dict(_suggested(trial, search, base))


def values_of_base(search: Search, base: Config) -> dict[str, Any]:
    """The values of the base config itself, as far as they are in the space."""
    values = {}
    for key, space in search.items():
        section, _, name = key.rpartition(".")
        value = getattr(getattr(base, section) if section else base, name, None)
        if space.holds(value):
            values[key] = _of_optuna(value)
    return values


def _suggested(trial: Suggests, search: Search, base: Config) -> Iterator[tuple[str, Any]]:
    kinds = {section: getattr(base, section).kind for section in CHOICES}
    for key, space in search.items():
        section, _, name = key.partition(".")
        if section in CHOICES and name not in CHOICES[section][kinds[section]].model_fields:
            continue
        value = space.suggest(trial, key)
        if name == "kind":
            kinds[section] = value
        yield key, value


def values_in_words(params: Mapping[str, Any]) -> str:
    """The values of a trial for a person: `temperature.kind cosine, temperature.end 0.3`."""
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in params.items()
    )


def _of_optuna(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, tuple) else value
