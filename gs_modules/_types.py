"""Protocols of the values that modules hold, and the outputs that they return."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Protocol

import jax
from jax.typing import ArrayLike

Prior = Literal["uniform", "learned"]
"""The prior of a categorical latent: uniform over its classes, or learned logits."""


class Estimator(Protocol):
    """A gradient estimator: a hashable value that draws a sample from unnormalised logits."""

    def __call__(
        self,
        key: jax.Array,
        logits: ArrayLike,
        temperature: ArrayLike,
        *,
        axis: int = -1,
        where: ArrayLike | None = None,
    ) -> jax.Array: ...


class Schedule(Protocol):
    """A temperature for every optimizer step; every optax schedule is one too."""

    def __call__(self, step: Any) -> Any: ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LatentOutput:
    """What ``CategoricalLatent`` returns: L latents of K classes per example.

    Attributes:
        sample: ``[..., L, K]``, the sample of the estimator; one-hot for all but ``Pathwise``.
        index: ``[..., L]`` int32, the class with the largest weight in ``sample``; -1 where the
            sample is NaN or no class is left.
        logits: ``[..., L, K]``, the unnormalised log-probabilities that the sample was drawn from.
        kl: ``[...]`` float32 (float64 for float64 logits), KL divergence from the prior summed
            over the latents, in nats.
        temperature: float32, what the sample was drawn at, of the shape it was given in: a scalar,
            or one for each row; NaN in a deterministic call.
        deterministic: True when ``sample`` is the argmax, without noise and without gradient.
    """

    sample: jax.Array
    index: jax.Array
    logits: jax.Array
    kl: jax.Array
    temperature: jax.Array
    deterministic: bool = dataclasses.field(metadata={"static": True})
