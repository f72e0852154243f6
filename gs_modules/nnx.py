"""Flax NNX modules over the core.

Beware of two things of NNX. Raw ``jax.jit``, ``jax.vmap`` and ``jax.checkpoint`` drop the updates
of a module that is passed to them, its clock and its streams included: use ``nnx.jit`` and its kin.
And where no stream is called ``gumbel``, ``rngs.gumbel()`` draws NNX's own noise and no key; a key
is ``rngs["gumbel"]()``.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

import gs_modules as core
from gs_modules._nnx_sampler import AnnealStep, Sampler
from gs_modules._nnx_state import assert_ticks, restore, set_key, set_step

__all__ = [
    "AnnealStep",
    "CategoricalLatent",
    "GumbelGate",
    "GumbelSoftmax",
    "assert_ticks",
    "restore",
    "set_key",
    "set_step",
]


class GumbelSoftmax(Sampler):
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
        with core.errors_of(self._name()):
            sample, _ = self._draw(x, where, deterministic, temperature, step, key)
            return core.sample_output(sample, x, self.dtype)


class CategoricalLatent(Sampler):
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
        with core.errors_of(self._name()):
            self.num_latents = core.check_count("num_latents", num_latents)
            self.num_classes = core.check_count("num_classes", num_classes)
            has_learned_prior = core.has_learned_prior(prior)
        self.prior: core.Prior = prior
        if has_learned_prior:
            shape = (self.num_latents, self.num_classes)
            self.prior_logits = nnx.Param(jnp.zeros(shape, jnp.float32))

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
        with core.errors_of(self._name()):
            logits = core.latent_logits(x, self.num_latents, self.num_classes)
            sample, temperature = self._draw(logits, where, deterministic, temperature, step, key)
            prior_logits = self.prior_logits[...] if core.has_learned_prior(self.prior) else None
            return core.latent_output(
                sample, logits, prior_logits, temperature, where=where, dtype=self.dtype
            )


class GumbelGate(Sampler):
    """Chooses k of N, by its input or by free logits; see ``gs_modules.GateOutput``.

    The law of one choice is ``(1 - unimix) * softmax(logits + bias) + unimix / M`` over the M
    choices that ``where`` keeps, computed in float32 whatever the dtype of the model.

    Args:
        num_choices: N.
        k: how many different choices are made, 1 to N; more than one by ``gumbel_top_k``.
        in_features: D of the input; None: the logits are free, a parameter.
        unimix: uniform share of the law, in [0, 1): keeps every choice possible.
        temperature: positive number, or a schedule (then the module owns a clock, ``step``).
        estimator: forward sample and gradient; see ``gs_modules.ESTIMATORS``. For ``k > 1`` the
            default.
        deterministic: default mode; None means False. ``eval()`` and ``train()`` set it.
        dtype: of the weights; float32 by default.
        rng_collection: name of the stream of ``rngs`` that keys are drawn from.
        rngs: its streams, ``params`` for the dense layer; ``default`` where one is missing. The
            stream ``rng_collection`` is forked.

    Raises:
        TypeError: an option is of another type.
        ValueError: ``k`` is not in 1 to N, ``unimix`` is not in [0, 1), ``k > 1`` with another
            estimator.

    Example:
        >>> gate = GumbelGate(4, in_features=5, temperature=0.5, rngs=nnx.Rngs(0))
        >>> output = gate(jnp.ones((2, 5)))
        >>> output.weights.shape, output.index.shape, output.combine(jnp.ones((4, 2, 7))).shape
        ((2, 4), (2, 1), (2, 7))
        >>> GumbelGate(64, k=10, rngs=nnx.Rngs(0))().weights.sum().item()
        10.0
    """

    def __init__(
        self,
        num_choices: int,
        k: int = 1,
        *,
        in_features: int | None = None,
        unimix: float = 0.0,
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
        with core.errors_of(self._name()):
            self.num_choices, self.k, self.unimix = core.check_gate(
                num_choices, k, estimator, unimix
            )
            if in_features is None:
                self.logits = nnx.Param(jnp.zeros(num_choices, jnp.float32))
            elif isinstance(rngs, nnx.Rngs):
                in_features = core.check_count("in_features", in_features)
                self.dense = nnx.Linear(in_features, num_choices, dtype=jnp.float32, rngs=rngs)
            else:
                raise ValueError(
                    f"a gate with in_features makes parameters: write rngs=nnx.Rngs(0), "
                    f"got {rngs!r}"
                )
        self.in_features = in_features

    def __call__(
        self,
        x: ArrayLike | None = None,
        *,
        where: ArrayLike | None = None,
        bias: ArrayLike | None = None,
        deterministic: bool | None = None,
        temperature: ArrayLike | None = None,
        step: ArrayLike | None = None,
        key: jax.Array | None = None,
    ) -> core.GateOutput:
        """Weights, index, probabilities and losses; see ``gs_modules.GateOutput``.

        Args:
            x: ``[..., D]`` floating features, from which a dense layer makes the logits; without
                it they are free, a parameter ``logits`` ``[N]``, zero at first.
            where: boolean mask that broadcasts to ``[..., N]``; False excludes a choice.
            bias: floating, broadcasts to ``[..., N]`` and is added to the logits, to balance
                choices; see ``gs_modules.balancing_bias``.
            deterministic: overrides the constructor's; a Python bool.
            temperature: overrides the schedule; the clock still ticks.
            step: overrides the clock, which is left at ``step + 1``.
            key: overrides the stream.
        """
        with core.errors_of(self._name()):
            logits = self._logits(x)
            logits, law = core.gate_law(logits, where=where, bias=bias, unimix=self.unimix)
            weights, temperature = self._draw(
                law, None, deterministic, temperature, step, key, self.k
            )
            return core.gate_output(
                weights, logits, law, temperature, k=self.k, dtype=self.dtype, module=self._name()
            )

    def _logits(self, x: ArrayLike | None) -> jax.Array:
        if (x is None) != (self.in_features is None):
            raise ValueError(
                f"the gate was built with in_features={self.in_features} and takes "
                f"{'no input' if self.in_features is None else 'x of shape [..., in_features]'}; "
                f"build it with in_features=D for an input, without for free logits"
            )
        if x is None:
            return self.logits[...].astype(jnp.float32)
        features = core.gate_features(x)
        if features.shape[-1] != self.in_features:
            raise ValueError(
                f"x must have in_features={self.in_features} on its last axis, got the shape "
                f"{features.shape}"
            )
        return self.dense(features)
