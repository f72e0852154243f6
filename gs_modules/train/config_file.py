"""A config from a YAML file and flags: frozen pydantic objects, or every error at once."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from pydantic import ValidationError

from gs_modules import Cyclic, Piecewise
from gs_modules.train.config import CHOICES, SECTIONS, Config, config_options
from gs_modules.train.data import files_of, folder_of
from gs_modules.train.failure import CommandError
from gs_modules.train.sections import Data, mentioned
from gs_modules.train.spelling import nearest, unknown
from gs_modules.train.yaml_source import Source
from gs_modules.train.yaml_text import KeyPath, YamlError, shown


class ConfigError(CommandError):
    """A config that cannot be used; `lines` holds one line for each thing that is wrong."""

    exit_code = 2

    def __init__(self, lines: Iterable[str]):
        self.lines = list(lines)
        super().__init__("\n".join(self.lines))


def load(
    path: str | os.PathLike[str] | None,
    overrides: Sequence[tuple[str, str]] = (),
    *,
    check_root: bool = True,
) -> Config:
    """The config of a YAML file, with flags on top.

    Args:
        path: the file; None for the defaults.
        overrides: dotted keys and their values as YAML, `("temperature.end", "0.3")`; the last of
            a key counts. A new `kind` drops what the file says for the old kind alone.
        check_root: refuse a data set read from files whose `data.root` is not a folder.

    Raises:
        ConfigError: with everything that is wrong, each where it was written.
    """
    return resolve(_read(path, overrides), check_root=check_root)


def resolve(source: Source, *, check_root: bool = True) -> Config:
    """As `load`, from values that were read already."""
    for name in SECTIONS:
        _settle(source, name)
    config = _validate(source)
    if config is not None:
        _check_temperatures(source, config)
        _check_mesh(source, config)
    if check_root:
        _check_root(source)
    if config is None or source.faults():
        raise ConfigError(source.faults())
    return config


def refusal(
    path: str | os.PathLike[str] | None, overrides: Sequence[tuple[str, str]], key: str, reason: str
) -> ConfigError:
    """The error of a value that only the data could refuse, at the place where it was written."""
    source = _read(path, overrides)
    source.refuse(tuple(key.split(".")), reason)
    return ConfigError(source.faults())


def _read(path: str | os.PathLike[str] | None, overrides: Sequence[tuple[str, str]]) -> Source:
    try:
        source = Source({}) if path is None else Source.read(path)
    except YamlError as error:
        raise ConfigError([error.reason]) from None
    for name, text in dict(overrides).items():
        source.override(name, text)
    return source


def _settle(source: Source, name: str) -> None:
    """Makes a section keys of a kind that there is, so that pydantic can check all of them."""
    section = source.tree.get(name)
    if section is None:  # or all of its keys are commented out
        source.tree.pop(name, None)
        return
    if not isinstance(section, dict):
        source.refuse((name,), f"expected keys and values, got {shown(section)}")
        del source.tree[name]
        return
    if name not in CHOICES:
        return
    models, default = CHOICES[name], Config.model_fields[name].default.kind
    kind = section.setdefault("kind", default)
    if not isinstance(kind, str) or kind not in models:
        source.refuse((name, "kind"), unknown("kind", kind, models))
        if (kind := nearest(kind, models)) is None:
            del source.tree[name]
            return
        section["kind"] = kind
    was = (source.in_file.get(name) or {}).get("kind", default)
    if source.is_flag((name, "kind")) and kind != was:
        known = {key for model in models.values() for key in model.model_fields}
        for key in known - models[kind].model_fields.keys():
            if not source.is_flag((name, key)):
                section.pop(key, None)


def _validate(source: Source) -> Config | None:
    try:
        return Config.model_validate(source.tree)
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            path = error["loc"]
            if path[0] in CHOICES:
                path = (path[0], *path[2:])  # pydantic names the kind in between
            source.refuse(*_plain(source, path, error))
    return None


_REASONS = {
    "int_type": "expected an integer, got {got}",
    "float_type": "expected a number, got {got}",
    "bool_type": "expected true or false, got {got}",
    "string_type": "expected text, got {got}",
    "tuple_type": "expected a list, got {got}",
    "finite_number": "must be finite, got {got}",
    "greater_than": "must be greater than {gt}, got {got}",
    "greater_than_equal": "must be at least {ge}, got {got}",
    "less_than": "must be less than {lt}, got {got}",
    "less_than_equal": "must be at most {le}, got {got}",
    "value_error": "{error}",
    "missing": "missing",
}


def in_words(error: Mapping[str, Any]) -> str:
    """An error of pydantic's as a reason."""
    if error["type"] == "literal_error":  # the names are in its context alone, quoted
        names = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        return unknown(str(error["loc"][-1]), error["input"], names)
    return str(_REASONS.get(error["type"], error["msg"])).format(
        got=shown(error["input"]), **error.get("ctx", {})
    )


def _plain(source: Source, path: KeyPath, error: Mapping[str, Any]) -> tuple[KeyPath, str]:
    """Where to report an error of pydantic's, and in which words."""
    if error["type"] == "extra_forbidden":
        return path, _unknown_key(source, path)
    reason = in_words(error)
    if len(path) == 1 and isinstance(error["input"], dict):  # of several keys, or none of them
        keys = [(path[0], key) for key in mentioned(reason, error["input"])]
        path = min(keys, key=lambda key: not source.is_flag(key), default=path)
    return path, reason


def _unknown_key(source: Source, path: KeyPath) -> str:
    section, name = str(path[0]), str(path[-1])
    if len(path) == 1:
        valid, owner = list(Config.model_fields), "a config"
    else:
        owner = source.tree[section]["kind"] if section in CHOICES else section
        valid = list(SECTIONS[section][owner].model_fields)
    options = [option for option in config_options() if not option.startswith(f"{section}.")]
    elsewhere = [option for option in options if option.endswith(f".{name}")]
    if elsewhere and not nearest(name, valid):
        valid = elsewhere
    return unknown("key", name, valid, f"{owner} has")


_COLD = 1e-30
"""A temperature that every estimator refuses which refuses any positive one."""


def _check_temperatures(source: Source, config: Config) -> None:
    """Refuses an estimator that is not defined at every temperature of the run."""
    if _refusal_at(config, _COLD) is None:  # most are, and schedules take time to evaluate
        return
    lowest, step = _lowest_temperature(config)
    if (reason := _refusal_at(config, lowest)) is None:
        return
    of_temperature = [("temperature", key) for key in config.temperature.model_dump()]
    keys = [("estimator", "kind"), *of_temperature]
    source.refuse(
        next(filter(source.is_flag, keys), keys[0]),
        f"{reason}; temperature.kind {config.temperature.kind} reaches it at step {step} of "
        f"training.steps {config.training.steps}",
    )


def _lowest_temperature(config: Config) -> tuple[float, int]:
    """Of a run, and the first step that has it."""
    schedule, last = config.temperature.build(), config.training.steps - 1
    # Between these steps, every schedule only falls or only rises.
    turns = [0, last]
    if isinstance(schedule, Cyclic):
        turns.append(schedule.period - 1)
    elif isinstance(schedule, Piecewise):
        turns.extend(schedule.boundaries)
    return min((float(schedule(step)), step) for step in turns if step <= last)


def _check_mesh(source: Source, config: Config) -> None:
    """Refuses devices that would get unequal parts."""
    training, mesh = config.training, config.mesh
    examples = training.batch_size // training.microbatches
    if examples % mesh.data:
        of = "batch_size" if training.microbatches == 1 else "batch_size / microbatches"
        source.refuse(("mesh", "data"), f"must divide training.{of} {examples}, got {mesh.data}")
    if config.model.num_classes % mesh.classes:
        source.refuse(
            ("mesh", "classes"),
            f"must divide model.num_classes {config.model.num_classes}, got {mesh.classes}",
        )


def _refusal_at(config: Config, temperature: float) -> str | None:
    """What the estimator says of a temperature that it refuses; nothing is computed."""

    def sample() -> jax.Array:
        return config.estimator.build()(jax.random.key(0), jnp.zeros(2), temperature)

    try:
        jax.eval_shape(sample)
    except ValueError as error:
        return str(error)
    return None


def _check_root(source: Source) -> None:
    try:
        data = Data.model_validate(source.tree.get("data", {}))
    except ValidationError:  # reported already
        return
    if data.name == "digits":
        return
    if data.root is None:
        reason = f"missing; {data.name} is read from a folder that holds {files_of(data.name)}"
        source.refuse(("data", "root"), reason)
    elif not (folder := folder_of(data.root)).is_dir():
        reason = f"{folder} is not a folder; it must hold {files_of(data.name)}"
        source.refuse(("data", "root"), reason)
