"""What a config is: sections of keys, each with a type, a default and a help, and its YAML."""

import functools
import operator
import types
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field

from gs_modules import ESTIMATORS, SCHEDULES
from gs_modules.train.sections import (
    Choice,
    Data,
    Mesh,
    Model,
    Optimizer,
    Section,
    Training,
    choices,
)
from gs_modules.train.yaml_text import shown, write

CHOICES = {
    "estimator": choices(ESTIMATORS, "gradient estimator"),
    "temperature": choices(SCHEDULES, "schedule of the temperature"),
}
"""The sections of one of several kinds: their models by kind."""

if TYPE_CHECKING:  # pyright cannot see into a union made from a table
    Estimator = Choice
    Temperature = Choice
else:
    Estimator, Temperature = (
        Annotated[functools.reduce(operator.or_, models.values()), Field(discriminator="kind")]
        for models in CHOICES.values()
    )


class Config(Section):
    """Everything that the numbers of a run depend on; equal configs hash alike."""

    # jax.random.key drops the bits above 32: a larger seed would repeat the run of a smaller one.
    seed: int = Field(
        default=0, ge=0, lt=2**32, description="seed of weights, noise and order of data"
    )
    framework: Literal["nnx", "linen", "haiku"] = Field(default="nnx", description="front-end")
    data: Data = Data()
    model: Model = Model()
    estimator: Estimator = CHOICES["estimator"]["straight_through_gumbel"].model_validate({})
    temperature: Temperature = CHOICES["temperature"]["exponential"].model_validate({})
    optimizer: Optimizer = Optimizer()
    training: Training = Training()
    mesh: Mesh = Mesh()


SECTIONS: dict[str, Mapping[str, type[Section]]] = {
    name: CHOICES.get(name) or {name: type(info.default)}
    for name, info in Config.model_fields.items()
    if isinstance(info.default, Section)
}
"""Every section: its models by kind, or its only one by its own name."""


class Option(NamedTuple):
    """A key, for the help of its flag."""

    type: str
    default: Any
    help: str


@functools.cache
def config_options() -> dict[str, Option]:
    """Every dotted key over all kinds: its type in words, its default and its help."""
    options = {}
    for name, info in Config.model_fields.items():
        if name not in SECTIONS:
            options[name] = Option(
                type_in_words(info.annotation), info.default, info.description or ""
            )
        models = SECTIONS.get(name, {})
        for key, field in [item for m in models.values() for item in m.model_fields.items()]:
            kinds = [kind for kind, model in models.items() if key in model.model_fields]
            of_kinds = f" ({', '.join(kinds)})" if len(kinds) < len(models) else ""
            options[f"{name}.{key}"] = Option(
                " | ".join(kinds) if key == "kind" else type_in_words(field.annotation),
                getattr(info.default, key, field.default),
                f"{field.description}{of_kinds}",
            )
    return options


def to_yaml(config: Config) -> str:
    """The resolved YAML, every key in declared order; it loads as an equal config."""
    return write(config.model_dump())


def print_config(config: Config) -> str:
    """`to_yaml`, and the temperature along the run as comments."""
    schedule, steps = config.temperature.build(), config.training.steps
    marks = dict.fromkeys((0, steps // 100, steps // 10, steps // 2, steps))
    lines = [f"# temperature at step {step}: {float(schedule(step)):.6g}\n" for step in marks]
    return to_yaml(config) + "".join(lines)


def differences(old: Config, new: Config) -> list[str]:
    """The dotted keys that differ, as `key: old -> new`."""
    return changed(flat(old.model_dump(), shown), flat(new.model_dump(), shown))


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """The keys of two mappings that differ, as `key: before -> after`, those of `before` first."""
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in dict(before) | dict(after)
        if before.get(key) != after.get(key)
    ]


def flat(sections: Mapping[str, Any], in_words: Callable[[Any], str]) -> dict[str, str]:
    """Every dotted key of some sections, and its value in words."""
    found = {}
    for name, value in sections.items():
        section = value if isinstance(value, dict) else {"": value}
        found |= {f"{name}.{key}".rstrip("."): in_words(item) for key, item in section.items()}
    return found


_WORDS = {
    int: "integer",
    float: "number",
    str: "text",
    bool: "true | false",
    types.NoneType: "null",
}


def type_in_words(hint: Any) -> str:
    """What a key takes, for a person."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " | ".join(args)
    if origin is tuple:
        return f"list of {type_in_words(args[0])}s"
    if origin is Annotated:
        return type_in_words(args[0])
    return " or ".join(map(type_in_words, args)) if args else _WORDS.get(hint, str(hint))
