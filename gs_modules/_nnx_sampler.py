"""What every Flax NNX module of ours is: a mode, a clock and a key stream."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

import gs_modules as core

_FAR = 2**30
"""A step and a count that no test reaches."""


class AnnealStep(nnx.Variable):
    """The clock of a module with a schedule: one int32, the number of training calls so far."""


class Sampler(nnx.Module):
    """Mode, clock and key stream; each public module adds what it reads and returns."""

    def __init__(
        self,
        *,
        temperature: float | core.Schedule = 1.0,
        estimator: core.Estimator = core.StraightThroughGumbel(),
        deterministic: bool | None = None,
        dtype: DTypeLike | None = None,
        rng_collection: str = "gumbel",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        with core.errors_of(self._name()):
            self.temperature = core.check_temperature(temperature)
            self.estimator = core.check_estimator(estimator)
            # Not None: train() would change it, and with it the static part that nnx.jit traces.
            self.deterministic = core.resolve_deterministic(None, deterministic)
            self.dtype = core.check_dtype(dtype)
            self.rngs = nnx.data(_own_stream(rngs, rng_collection))
        self.rng_collection = rng_collection
        if callable(self.temperature):
            self.step = AnnealStep(jnp.zeros((), jnp.int32))

    def set_view(self, deterministic: bool | None = None):
        """What ``nnx.view`` sets.

        Args:
          deterministic: if True, the one-hot argmax without noise; if False, a sample.
        """
        if deterministic is not None:
            self.deterministic = deterministic

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
        if core.resolve_deterministic(deterministic, self.deterministic):
            sample = core.draw_deterministic(logits, where=where, k=k)
            return sample, None
        stream = self.rngs if key is None else None
        used = None if stream is None else stream.count[...]
        at = self._step(step)
        temperature = core.resolve_temperature(self.temperature, temperature, at)
        key = self._key() if key is None else key
        try:
            sample = core.draw(self.estimator, key, logits, temperature, where=where, k=k)
        except Exception:  # a refused call changes nothing
            if stream is not None:
                stream.count[...] = used
            raise
        if at is not None:
            self.step[...] = core.next_step(at)
        return sample, temperature

    def _key(self) -> jax.Array:
        if self.rngs is None:
            raise ValueError(
                f"there is no key stream: build the module with "
                f"rngs=nnx.Rngs({self.rng_collection}=0), or call it with key=, or with "
                f"deterministic=True"
            )
        return self.rngs()

    def _step(self, step: Any) -> jax.Array | None:
        """The step of this call; None with a constant temperature."""
        if not callable(self.temperature):
            return None
        return core.check_clock(self.step[...]) if step is None else core.check_step(step)

    def _name(self) -> str:
        return type(self).__name__

    def _wind(self) -> None:
        """Puts the clock and the count of the stream where no step of a test puts them."""
        if callable(self.temperature):
            self.step[...] = jnp.full_like(self.step[...], _FAR)
        if self.rngs is not None:
            self.rngs.count[...] = jnp.full_like(self.rngs.count[...], _FAR)

    def _has_ticked(self) -> bool:
        """Since ``_wind``; ``set_key`` leaves a count of 0, ``set_step`` a clock not so far."""
        moved = []
        if callable(self.temperature):
            moved.append((self.step[...] > _FAR).all())
        if self.rngs is not None:
            count = self.rngs.count[...]
            moved.append(((count != _FAR) & (count != 0)).all())
        return any(map(bool, moved))


def _own_stream(rngs: nnx.Rngs | nnx.RngStream | None, rng_collection: str) -> nnx.RngStream | None:
    if rngs is None:
        return None
    if isinstance(rngs, nnx.RngStream):
        return rngs.fork()
    if not isinstance(rngs, nnx.Rngs):
        raise TypeError(f"rngs must be nnx.Rngs or nnx.RngStream, got {type(rngs).__name__}")
    if rng_collection not in rngs and "default" not in rngs:
        raise ValueError(
            f"rngs has neither the stream {rng_collection!r} nor 'default': write "
            f"nnx.Rngs({rng_collection}=0) or nnx.Rngs(0)"
        )
    return rngs[rng_collection].fork()
