"""The sections of a config: those with keys of their own, and those of one of several kinds.

The kinds are made from the dataclasses in `ESTIMATORS` and `SCHEDULES`: a new entry there is a new
kind here, and needs no more than defaults in `_FIELDS`.
"""

import collections.abc
import dataclasses
import functools
import re
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model, model_validator

# Default and help of the fields of schedules and estimators; `...` where the dataclass has one.
_FIELDS: dict[str, tuple[Any, str]] = {
    "value": (1.0, "the temperature"),
    "start": (1.0, "temperature at step 0"),
    "end": (0.5, "temperature where the curve ends"),
    "steps": (9000, "steps from start to end"),
    "rate": (2e-4, "fall per step, of the logarithm"),
    "every": (..., "steps from one refresh of the temperature to the next"),
    "values": ((1.0, 0.5), "temperature of each piece"),
    "boundaries": ((3000,), "step at which each further piece begins"),
    "backward_temperature": (1.0, "temperature of the derivative, whatever that of the sample"),
    "period": (2000, "steps from one restart to the next"),
}


Count = Annotated[int, Field(ge=1, le=2**31 - 1)]


class ImpossibleValueError(Exception):
    """A value that is none for the data or the devices that are here."""

    def __init__(self, key: str, reason: str):
        super().__init__(f"{key}: {reason}")
        self.key = key
        self.reason = reason


class Section(BaseModel):
    """Keys that belong together."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Data(Section):
    """What is learned; `gs_modules.train.data.load` takes these."""

    name: Literal["digits", "mnist", "fashion_mnist", "static_mnist"] = Field(
        default="digits", description="data set"
    )
    root: str | None = Field(default=None, description="folder with its files; digits needs none")
    validation: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="examples kept for validation; null: the data set's own choice"
    )


class Model(Section):
    """The categorical variational auto-encoder."""

    num_latents: Count = Field(default=8, description="categorical latent variables")
    num_classes: Annotated[Count, Field(ge=2)] = Field(
        default=8, description="classes of each latent"
    )
    hidden: tuple[Count, ...] = Field(
        default=(512,), description="widths of the encoder's layers; the decoder mirrors them"
    )
    prior: Literal["uniform", "learned"] = Field(
        default="uniform", description="prior of the latents"
    )


class Optimizer(Section):
    """How the weights move."""

    learning_rate: float = Field(default=2e-3, gt=0, description="size of an update")
    decay: Literal["none", "cosine"] = Field(
        default="cosine", description="of the learning rate; cosine: to 0 at the last step"
    )
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled decay of the weights")


class Training(Section):
    """How long, and when to look and to save."""

    steps: Count = Field(default=9000, description="optimizer updates")
    batch_size: Count = Field(default=50, description="examples in an update")
    microbatches: Count = Field(
        default=1,
        description="parts of a batch, one after the other, whose gradients add up; divides "
        "batch_size",
    )
    compute_dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="of layers and samples; parameters, losses and updates are float32",
    )
    flip_probability: Annotated[float, Field(ge=0, le=0.5)] = Field(
        default=0.05,
        description="with which a pixel is inverted before the encoder sees it; the decoder's "
        "target stays clean",
    )
    evaluate_every: Count = Field(
        default=900, description="updates from one evaluation to the next"
    )
    evaluation_samples: Count = Field(
        default=10, description="posterior samples per image in an evaluation"
    )
    checkpoint_every: Count = Field(
        default=4500,
        description="updates from one checkpoint to the next; a multiple of evaluate_every",
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.batch_size % self.microbatches:
            raise ValueError(
                "microbatches must divide batch_size, got "
                f"microbatches={self.microbatches} and batch_size={self.batch_size}"
            )
        if self.checkpoint_every % self.evaluate_every:
            raise ValueError(
                "checkpoint_every must be a multiple of evaluate_every, got "
                f"checkpoint_every={self.checkpoint_every} and evaluate_every={self.evaluate_every}"
            )
        return self


class Mesh(Section):
    """The devices of a run: ``data`` times ``classes`` of them."""

    data: Count = Field(default=1, description="devices that share the examples of a batch")
    classes: Count = Field(default=1, description="devices that share the classes of the latents")


class Choice(Section):
    """One of several kinds, with the options of that kind and no others."""

    of: ClassVar[Any]
    kind: str

    def build(self) -> Any:
        """The schedule or the estimator itself."""
        return self.of(**self.model_dump(exclude={"kind"}))

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        try:
            self.build()
        except TypeError as error:  # pydantic gathers ValueErrors only
            raise ValueError(str(error)) from error
        return self


def choices(table: Mapping[str, type], noun: str) -> dict[str, type[Choice]]:
    """A model for each dataclass of a table, by its name there."""
    return {kind: _choice(kind, of, noun) for kind, of in table.items()}


def _choice(kind: str, of: type, noun: str) -> type[Choice]:
    hints = typing.get_type_hints(of)
    defaults = {
        field.name: _FIELDS.get(field.name, (...,))[0]
        if field.default is dataclasses.MISSING
        else field.default
        for field in dataclasses.fields(of)
    }
    fields: dict[str, Any] = {"kind": (Literal[kind], Field(kind, description=noun))}
    for name, default in defaults.items():
        hint = hints[name]
        if typing.get_origin(hint) is collections.abc.Sequence:
            hint = tuple[*typing.get_args(hint), ...]
        check = AfterValidator(functools.partial(_possible_alone, of, defaults, name))
        _, description = _FIELDS.get(name, (..., f"option of {kind}"))
        fields[name] = (Annotated[hint, check], Field(default, description=description))
    model = create_model(f"{of.__name__}Options", __base__=Choice, **fields)
    model.of = of
    return model


def _possible_alone(of: type, defaults: Mapping[str, Any], name: str, value: Any) -> Any:
    """Refuses what the dataclass says of this field alone: its own check stops at the first."""
    try:
        of(**{**defaults, name: value})
    except (TypeError, ValueError) as error:
        if mentioned(str(error), defaults) == [name]:
            raise ValueError(str(error)) from error
    return value


def mentioned(reason: str, names: Iterable[str]) -> list[str]:
    """The names that a reason speaks of, in its order."""
    found = {name: re.search(rf"\b{name}\b", reason) for name in names}
    starts = {name: match.start() for name, match in found.items() if match}
    return sorted(starts, key=lambda name: starts[name])
