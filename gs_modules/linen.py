"""Flax Linen modules over the core."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike, DTypeLike

import gs_modules as core

__all__ = ["CategoricalLatent", "GumbelSoftmax", "set_step"]

COLLECTION = "anneal"
"""The variable collection that holds the clocks."""


class _Sampler(nn.Module, kw_only=True):
    """Mode, clock and key stream; each public module adds what it reads and returns."""

    temperature: float | core.Schedule = 1.0
    estimator: core.Estimator = core.StraightThroughGumbel()
    deterministic: bool | None = None
    dtype: DTypeLike | None = None
    rng_collection: str = "gumbel"

    def _draw(
        self,
        logits: ArrayLike,
        where: ArrayLike | None,
        deterministic: bool | None,
        temperature: ArrayLike | None,
        step: ArrayLike | None,
        key: jax.Array | None,
    ) -> tuple[jax.Array, ArrayLike | None]:
        """The sample, and the temperature that it was drawn at (None: deterministic)."""
        schedule = core.check_temperature(self.temperature)
        estimator = core.check_estimator(self.estimator)
        if callable(schedule) and self.is_initializing():
            self.variable(COLLECTION, "step", jnp.zeros, (), jnp.int32)
        if core.resolve_deterministic(deterministic, self.deterministic):
            return core.draw_deterministic(logits, where=where, dtype=self.dtype), None
        key = self._key() if key is None else key
        step = self._tick(step) if callable(schedule) else None
        temperature = core.resolve_temperature(schedule, temperature, step)
        sample = core.draw(estimator, key, logits, temperature, where=where, dtype=self.dtype)
        return sample, temperature

    def _key(self) -> jax.Array:
        # Outside init, make_rng would fall back to the stream `params`: the same noise everywhere.
        if not (self.has_rng(self.rng_collection) or self.is_initializing()):
            raise ValueError(
                f"{self._name()} needs the key stream {self.rng_collection!r}: write "
                f"apply(..., rngs={{{self.rng_collection!r}: key}}), or call it with key=, or "
                f"with deterministic=True"
            )
        return self.make_rng(self.rng_collection)

    def _tick(self, step: Any) -> jax.Array:
        """The step of this call; the clock goes on to the next."""
        is_mutable = self.is_mutable_collection(COLLECTION)
        if step is None:
            if not self.has_variable(COLLECTION, "step"):
                raise ValueError(
                    f"{self._name()} has a schedule but no clock: pass the collection "
                    f"{COLLECTION!r} that init returned, or call it with step="
                )
            if not is_mutable:
                raise ValueError(
                    f"{self._name()} cannot advance its clock: write apply(..., "
                    f'mutable=["{COLLECTION}"]), or call it with step= or deterministic=True'
                )
            step = core.check_clock(self.get_variable(COLLECTION, "step"), self._name())
        if is_mutable and not self.is_initializing():
            self.put_variable(COLLECTION, "step", core.next_step(step))
        return core.as_step(step)

    def _name(self) -> str:
        return f"{type(self).__name__} at {'/'.join(self.path) or 'the top'}"


class GumbelSoftmax(_Sampler):
    """Samples its input, logits ``[..., K]``; the one-hot argmax when deterministic.

    Args:
        temperature: positive number, or a schedule (then the module owns a clock, the variable
            ``step`` of the collection ``anneal``; training calls need ``mutable=["anneal"]``).
        estimator: forward sample and gradient; see ``gs_modules.ESTIMATORS``.
        deterministic: default mode; None means False.
        dtype: of the sample; that of the logits by default.
        rng_collection: name of the key stream.

    Example:
        >>> layer = GumbelSoftmax(temperature=core.Exponential(1.0, 0.5, rate=1e-3))
        >>> x, key = jnp.zeros((2, 3)), jax.random.key(0)
        >>> variables = layer.init({"gumbel": key}, x)
        >>> sample, state = layer.apply(variables, x, rngs={"gumbel": key}, mutable=["anneal"])
        >>> sample.shape, state["anneal"]["step"].item()
        ((2, 3), 1)
    """

    @nn.compact
    def __call__(
        self,
        x: ArrayLike,
        *,
        where: ArrayLike | None = None,
        deterministic: bool | None = None,
        temperature: ArrayLike | None = None,
        step: ArrayLike | None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """A sample of the shape of ``x``.

        Args:
            x: ``[..., K]`` floating, unnormalised log-probabilities.
            where: boolean mask that broadcasts to ``x``; False excludes a class.
            deterministic: overrides the constructor's; a Python bool.
            temperature: overrides the schedule; the clock still ticks.
            step: overrides the clock, which is left at ``step + 1`` if it is mutable.
            key: overrides the stream.
        """
        return self._draw(x, where, deterministic, temperature, step, key)[0]


class CategoricalLatent(_Sampler):
    """L categorical latents of K classes, with the KL divergence from their prior.

    Args:
        num_latents: L.
        num_classes: K.
        prior: "uniform", or "learned": a parameter ``prior_logits`` ``[L, K]``, zero at first.
        temperature: positive number, or a schedule (then the module owns a clock, the variable
            ``step`` of the collection ``anneal``; training calls need ``mutable=["anneal"]``).
        estimator: forward sample and gradient; see ``gs_modules.ESTIMATORS``.
        deterministic: default mode; None means False.
        dtype: of the sample; that of the logits by default.
        rng_collection: name of the key stream.

    Example:
        >>> latent = CategoricalLatent(3, 4, temperature=0.5)
        >>> output, _ = latent.init_with_output({"gumbel": jax.random.key(0)}, jnp.zeros((2, 12)))
        >>> output.sample.shape, output.index.shape, output.kl.tolist()
        ((2, 3, 4), (2, 3), [0.0, 0.0])
    """

    num_latents: int
    num_classes: int
    _: dataclasses.KW_ONLY
    prior: core.Prior = "uniform"

    @nn.compact
    def __call__(
        self,
        x: ArrayLike,
        *,
        where: ArrayLike | None = None,
        deterministic: bool | None = None,
        temperature: ArrayLike | None = None,
        step: ArrayLike | None = None,
        key: jax.Array | None = None,
    ) -> core.LatentOutput:
        """A sample, its codes and its KL divergence; see ``gs_modules.LatentOutput``.

        Args:
            x: ``[..., L * K]`` or, for L > 1, ``[..., L, K]``: logits, an encoder's output.
            where: boolean mask that broadcasts to ``[..., L, K]``; False excludes a class.
            deterministic: overrides the constructor's; a Python bool.
            temperature: overrides the schedule; the clock still ticks.
            step: overrides the clock, which is left at ``step + 1`` if it is mutable.
            key: overrides the stream.
        """
        shape = (
            core.check_count("num_latents", self.num_latents),
            core.check_count("num_classes", self.num_classes),
        )
        logits = core.latent_logits(x, *shape)
        prior_logits = None
        if core.has_learned_prior(self.prior):
            prior_logits = self.param("prior_logits", nn.initializers.zeros, shape)
        sample, temperature = self._draw(logits, where, deterministic, temperature, step, key)
        return core.latent_output(sample, logits, prior_logits, temperature, where=where)


def set_step(variables: Mapping[str, Any], step: int | jax.Array) -> dict[str, Any]:
    """``variables`` with every clock at ``step``; also under ``jax.jit``.

    For gradient accumulation, for a layer called several times per update, or to resume from an
    optimizer's count.

    Raises:
        ValueError: ``variables`` hold no clock.

    Example:
        >>> layer = GumbelSoftmax(temperature=core.Linear(1.0, 0.5, steps=10))
        >>> variables = layer.init({"gumbel": jax.random.key(0)}, jnp.zeros((2, 3)))
        >>> set_step(variables, 7)["anneal"]["step"].item()
        7
    """
    if not variables.get(COLLECTION):
        raise ValueError(
            f"set_step: no collection {COLLECTION!r} among {sorted(variables)}; pass the variables "
            f"that init returned"
        )
    step = core.as_step(step)
    clocks = jax.tree.map(
        lambda clock: jnp.full_like(clock, step, dtype=jnp.int32), variables[COLLECTION]
    )
    return {**variables, COLLECTION: clocks}
