"""Protocols of the values that modules hold."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Literal, Protocol

import jax
from jax.typing import ArrayLike

AxisName = Hashable | Sequence[Hashable]
"""Mapped axes, of ``jax.shard_map`` or ``jax.vmap``."""

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
