"""Flax NNX modules over the core.

Beware of two things of NNX. Raw ``jax.jit``, ``jax.vmap`` and ``jax.checkpoint`` drop the updates
of a module that is passed to them, its clock and its streams included: use ``nnx.jit`` and its kin.
And ``rngs.gumbel()`` draws NNX's own noise; a key of the stream ``gumbel`` is ``rngs["gumbel"]()``.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

import gs_modules as core

__all__ = ["AnnealStep", "CategoricalLatent", "GumbelSoftmax", "set_step"]


class AnnealStep(nnx.Variable):
    """The clock of a module with a schedule: one int32, the number of training calls so far."""


class _Sampler(nnx.Module):
    """Mode, clock and key stream; each public module adds what it reads and returns."""

    def __init__(
        self,
        *,
        temperature: float | core.Schedule,
        estimator: core.Estimator,
        deterministic: bool | None,
        dtype: DTypeLike | None,
        rng_collection: str,
        rngs: nnx.Rngs | nnx.RngStream | None,
    ):
        self.temperature = core.check_temperature(temperature)
        self.estimator = core.check_estimator(estimator)
        self.deterministic = deterministic
        self.dtype = dtype
        self.rng_collection = rng_collection
        self.rngs = nnx.data(_own_stream(rngs, rng_collection))
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
    ) -> tuple[jax.Array, ArrayLike | None]:
        """The sample, and the temperature that it was drawn at (None: deterministic)."""
        if core.resolve_deterministic(deterministic, self.deterministic):
            return core.draw_deterministic(logits, where=where, dtype=self.dtype), None
        used = None if self.rngs is None else self.rngs.count[...]
        at = self._step(step)
        temperature = core.resolve_temperature(self.temperature, temperature, at)
        key = self._key() if key is None else key
        try:
            sample = core.draw(
                self.estimator, key, logits, temperature, where=where, dtype=self.dtype
            )
        except Exception:  # a refused call changes nothing
            if self.rngs is not None:
                self.rngs.count[...] = used
            raise
        if at is not None:
            self.step[...] = core.next_step(at)
        return sample, temperature

    def _key(self) -> jax.Array:
        if self.rngs is None:
            raise ValueError(
                f"{type(self).__name__} has no key stream: build it with "
                f"rngs=nnx.Rngs({self.rng_collection}=0), or call it with key=, or with "
                f"deterministic=True"
            )
        return self.rngs()

    def _step(self, step: Any) -> jax.Array | None:
        """The step of this call; None with a constant temperature."""
        if not callable(self.temperature):
            return None
        if step is None:
            step = core.check_clock(self.step[...], type(self).__name__)
        return core.as_step(step)


class GumbelSoftmax(_Sampler):
    """Samples its input, logits ``[..., K]``; the one-hot argmax when deterministic.

    Args:
        temperature: positive number, or a schedule (then the module owns a clock, ``step``).
        estimator: forward sample and gradient; see ``gs_modules.ESTIMATORS``.
        deterministic: default mode; None means False. ``eval()`` and ``train()`` set it.
        dtype: of the sample; that of the logits by default.
        rng_collection: name of the stream of ``rngs`` that keys are drawn from.
        rngs: its streams; ``default`` where ``rng_collection`` is missing. The stream is forked.

    Example:
        >>> schedule = core.Exponential(1.0, 0.5, rate=1e-3)
        >>> layer = GumbelSoftmax(temperature=schedule, rngs=nnx.Rngs(0))
        >>> layer(jnp.zeros((2, 3))).shape, layer.step[...].item()
        ((2, 3), 1)
    """

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
        super().__init__(
            temperature=temperature,
            estimator=estimator,
            deterministic=deterministic,
            dtype=dtype,
            rng_collection=rng_collection,
            rngs=rngs,
        )

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
            step: overrides the clock, which is left at ``step + 1``.
            key: overrides the stream.
        """
        return self._draw(x, where, deterministic, temperature, step, key)[0]


class CategoricalLatent(_Sampler):
    """L categorical latents of K classes, with the KL divergence from their prior.

    Args:
        num_latents: L.
        num_classes: K.
        prior: "uniform", or "learned": a parameter ``prior_logits`` ``[L, K]``, zero at first.
        temperature: positive number, or a schedule (then the module owns a clock, ``step``).
        estimator: forward sample and gradient; see ``gs_modules.ESTIMATORS``.
        deterministic: default mode; None means False. ``eval()`` and ``train()`` set it.
        dtype: of the sample; that of the logits by default.
        rng_collection: name of the stream of ``rngs`` that keys are drawn from.
        rngs: its streams; ``default`` where ``rng_collection`` is missing. The stream is forked.

    Example:
        >>> latent = CategoricalLatent(3, 4, temperature=0.5, rngs=nnx.Rngs(0))
        >>> output = latent(jnp.zeros((2, 12)))
        >>> output.sample.shape, output.index.shape, output.kl.tolist()
        ((2, 3, 4), (2, 3), [0.0, 0.0])
    """

    def __init__(
        self,
        num_latents: int,
        num_classes: int,
        *,
        prior: core.Prior = "uniform",
        temperature: float | core.Schedule = 1.0,
        estimator: core.Estimator = core.StraightThroughGumbel(),
        deterministic: bool | None = None,
        dtype: DTypeLike | None = None,
        rng_collection: str = "gumbel",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        super().__init__(
            temperature=temperature,
            estimator=estimator,
            deterministic=deterministic,
            dtype=dtype,
            rng_collection=rng_collection,
            rngs=rngs,
        )
        self.num_latents = core.check_count("num_latents", num_latents)
        self.num_classes = core.check_count("num_classes", num_classes)
        self.prior = prior
        if core.has_learned_prior(prior):
            self.prior_logits = nnx.Param(jnp.zeros((self.num_latents, self.num_classes)))

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
            step: overrides the clock, which is left at ``step + 1``.
            key: overrides the stream.
        """
        logits = core.latent_logits(x, self.num_latents, self.num_classes)
        sample, temperature = self._draw(logits, where, deterministic, temperature, step, key)
        prior_logits = self.prior_logits[...] if self.prior == "learned" else None
        return core.latent_output(sample, logits, prior_logits, temperature, where=where)


def set_step(model: nnx.Module, step: int | jax.Array) -> None:
    """Sets every clock in ``model`` to ``step``, in place; also under ``nnx.jit``.

    For gradient accumulation, for a layer called several times per update, or to resume from an
    optimizer's count.

    Raises:
        ValueError: the model has no clock.

    Example:
        >>> layer = GumbelSoftmax(temperature=core.Linear(1.0, 0.5, steps=10))
        >>> set_step(layer, 7)
        >>> layer.step[...].item()
        7
    """
    clocks = [node for _, node in nnx.iter_graph(model) if isinstance(node, AnnealStep)]
    if not clocks:
        raise ValueError(f"set_step: {type(model).__name__} holds no module with a schedule")
    for clock in clocks:
        clock[...] = jnp.full_like(clock[...], core.as_step(step), dtype=jnp.int32)


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
