"""What every Flax Linen module of ours is: a mode, a clock and a key stream."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike, DTypeLike

import gs_modules as core

COLLECTION = "anneal"
"""The variable collection that holds the clocks."""


class Sampler(nn.Module, kw_only=True):
    """Mode, clock and key stream; each public module adds what it reads and returns.

    Private methods are not wrapped: they are no methods of the module for ``nn.intercept_methods``
    and ``capture_intermediates``.
    """

    temperature: float | core.Schedule = 1.0
    estimator: core.Estimator = core.StraightThroughGumbel()
    deterministic: bool | None = None
    dtype: DTypeLike | None = None
    rng_collection: str = "gumbel"

    @nn.nowrap
    def _draw(
        self,
        logits: ArrayLike,
        where: ArrayLike | None,
        deterministic: bool | None,
        temperature: ArrayLike | None,
        step: ArrayLike | None,
        key: jax.Array | None,
        k: int = 1,
    ) -> tuple[jax.Array, ArrayLike | None]:
        """The sample, and the temperature that it was drawn at (None: deterministic)."""
        schedule = core.check_temperature(self.temperature)
        estimator = core.check_estimator(self.estimator)
        core.check_dtype(self.dtype)
        if callable(schedule) and self.is_initializing():
            self.variable(COLLECTION, "step", jnp.zeros, (), jnp.int32)
        if core.resolve_deterministic(deterministic, self.deterministic):
            sample = core.draw_deterministic(logits, where=where, k=k)
            return sample, None
        key = self._key() if key is None else key
        step = self._tick(step) if callable(schedule) else None
        temperature = core.resolve_temperature(schedule, temperature, step)
        sample = core.draw(estimator, key, logits, temperature, where=where, k=k)
        return sample, temperature

    @nn.nowrap
    def _key(self) -> jax.Array:
        # Outside init, make_rng would fall back to the stream `params`: the same noise everywhere.
        if not (self.has_rng(self.rng_collection) or self.is_initializing()):
            raise ValueError(
                f"there is no key stream {self.rng_collection!r}: write "
                f"apply(..., rngs={{{self.rng_collection!r}: key}}), or call it with key=, or "
                f"with deterministic=True; inside nn.scan and nn.vmap, name it in split_rngs"
            )
        return self.make_rng(self.rng_collection)

    @nn.nowrap
    def _tick(self, step: Any) -> jax.Array:
        """The step of this call; the clock goes on to the next."""
        is_mutable = self.is_mutable_collection(COLLECTION)
        if step is None:
            if not self.has_variable(COLLECTION, "step"):
                raise ValueError(
                    f"there is a schedule but no clock: pass the collection "
                    f"{COLLECTION!r} that init returned, or call it with step="
                )
            if not is_mutable:
                raise ValueError(
                    f"the clock cannot advance: write apply(..., "
                    f'mutable=["{COLLECTION}"]), or call it with step= or deterministic=True'
                )
            step = core.check_clock(self.get_variable(COLLECTION, "step"))
        else:
            step = core.check_step(step)
        if is_mutable and not self.is_initializing():
            self.put_variable(COLLECTION, "step", core.next_step(step))
        return step

    @nn.nowrap
    def _name(self) -> str:
        return f"{type(self).__name__} at {'/'.join(self.path) or 'the top'}"
