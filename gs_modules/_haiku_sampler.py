"""What every dm-haiku module of ours is: a mode and a clock."""

from __future__ import annotations

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

import gs_modules as core

_OF_INIT = 0x1A17
"""Folded into the keys of ``init``."""


class Sampler(hk.Module):
    """Mode and clock; each public module adds what it reads and returns."""

    def __init__(
        self,
        *,
        temperature: float | core.Schedule = 1.0,
        estimator: core.Estimator = core.StraightThroughGumbel(),
        deterministic: bool | None = None,
        dtype: DTypeLike | None = None,
        rng_collection: str = "gumbel",
        name: str | None = None,
    ):
        super().__init__(name=name)
        with core.errors_of(self._name()):
            self.temperature = core.check_temperature(temperature)
            self.estimator = core.check_estimator(estimator)
            self.dtype = core.check_dtype(dtype)
        self.deterministic = deterministic
        self.rng_collection = rng_collection

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
        if callable(self.temperature) and hk.running_init():
            hk.get_state("step", (), jnp.int32, init=jnp.zeros)
        if core.resolve_deterministic(deterministic, self.deterministic):
            sample = core.draw_deterministic(logits, where=where, k=k)
            return sample, None
        key = self._key() if key is None else key
        step = self._tick(step) if callable(self.temperature) else None
        temperature = core.resolve_temperature(self.temperature, temperature, step)
        sample = core.draw(self.estimator, key, logits, temperature, where=where, k=k)
        return sample, temperature

    def _key(self) -> jax.Array:
        key = hk.maybe_next_rng_key()
        if key is None:
            raise ValueError(
                "there is no key: write apply(params, state, key, ...), or call it "
                "with key=, or with deterministic=True"
            )
        # After init(key), whose parameters used keys of the same sequence, fold_in(key, 0) draws
        # what init drew: split(key)[0] is fold_in(key, 0).
        return jax.random.fold_in(key, _OF_INIT) if hk.running_init() else key

    def _tick(self, step: Any) -> jax.Array:
        """The step of this call; the clock goes on to the next."""
        step = core.check_clock(self._clock()) if step is None else core.check_step(step)
        if not hk.running_init():
            hk.set_state("step", core.next_step(step))
        return step

    def _clock(self) -> jax.Array:
        try:
            return hk.get_state("step")
        except ValueError as error:
            raise ValueError(
                "there is a schedule but no clock: use hk.transform_with_state and pass "
                "the state that init returned, or call it with step="
            ) from error

    def _name(self) -> str:
        return f"{type(self).__name__} at {self.module_name}"
