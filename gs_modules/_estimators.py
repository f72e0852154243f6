"""Gradient estimators: frozen dataclasses with one signature.

``estimator(key, logits, temperature, *, axis=-1, where=None)`` returns a sample of the shape and
dtype of ``logits``; arguments, refusals and edge cases are those of ``gumbel_softmax``.
"""

from __future__ import annotations

import dataclasses

import jax
from jax.typing import ArrayLike

from gs_modules._relaxed import gumbel_softmax, straight_through_argmax, straight_through_sample


@dataclasses.dataclass(frozen=True)
class Pathwise:
    """The relaxed sample with its exact derivative (the reparameterisation trick).

    Jang, Gu, Poole (2017), https://arxiv.org/abs/1611.01144.

    Example:
        >>> import jax.numpy as jnp
        >>> Pathwise()(jax.random.key(0), jnp.zeros((2, 3)), 0.5).shape
        (2, 3)
    """

    def __call__(
        self,
        key: jax.Array,
        logits: ArrayLike,
        temperature: ArrayLike,
        *,
        axis: int = -1,
        where: ArrayLike | None = None,
    ) -> jax.Array:
        return gumbel_softmax(key, logits, temperature, axis=axis, where=where)


@dataclasses.dataclass(frozen=True)
class StraightThroughGumbel:
    """A one-hot sample with the derivative of the relaxed sample at the same noise.

    Jang, Gu, Poole (2017), section 2.2, https://arxiv.org/abs/1611.01144.

    Example:
        >>> import jax.numpy as jnp
        >>> StraightThroughGumbel()(jax.random.key(0), jnp.zeros((2, 3)), 0.5).sum(-1).tolist()
        [1.0, 1.0]
    """

    def __call__(
        self,
        key: jax.Array,
        logits: ArrayLike,
        temperature: ArrayLike,
        *,
        axis: int = -1,
        where: ArrayLike | None = None,
    ) -> jax.Array:
        return gumbel_softmax(key, logits, temperature, hard=True, axis=axis, where=where)


@dataclasses.dataclass(frozen=True)
class StraightThrough:
    """A one-hot sample with the derivative of ``softmax(logits / temperature)``.

    At temperature 1 its mean gradient is exact for linear losses. Bengio, Leonard, Courville
    (2013), https://arxiv.org/abs/1308.3432.

    Example:
        >>> import jax.numpy as jnp
        >>> StraightThrough()(jax.random.key(0), jnp.zeros((2, 3)), 0.5).sum(-1).tolist()
        [1.0, 1.0]
    """

    def __call__(
        self,
        key: jax.Array,
        logits: ArrayLike,
        temperature: ArrayLike,
        *,
        axis: int = -1,
        where: ArrayLike | None = None,
    ) -> jax.Array:
        return straight_through_sample(key, logits, temperature, axis=axis, where=where)


@dataclasses.dataclass(frozen=True)
class StraightThroughArgmax:
    """The one-hot argmax without noise, with the derivative of ``softmax(logits / temperature)``.

    Example:
        >>> import jax.numpy as jnp
        >>> StraightThroughArgmax()(jax.random.key(0), jnp.array([0.0, 1.0]), 0.5).tolist()
        [0.0, 1.0]
    """

    def __call__(
        self,
        key: jax.Array,
        logits: ArrayLike,
        temperature: ArrayLike,
        *,
        axis: int = -1,
        where: ArrayLike | None = None,
    ) -> jax.Array:
        del key
        return straight_through_argmax(logits, temperature, axis=axis, where=where)


ESTIMATORS = {
    "pathwise": Pathwise,
    "straight_through_gumbel": StraightThroughGumbel,
    "straight_through": StraightThrough,
    "argmax": StraightThroughArgmax,
}
"""The estimators by the names that a YAML config uses."""
