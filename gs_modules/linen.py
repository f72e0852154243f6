"""Flax Linen modules over the core."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike

import gs_modules as core
from gs_modules._linen_sampler import COLLECTION, Sampler

__all__ = ["CategoricalLatent", "GumbelGate", "GumbelSoftmax", "set_step"]


class GumbelSoftmax(Sampler):
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
        with core.errors_of(self._name()):
            sample, _ = self._draw(x, where, deterministic, temperature, step, key)
            return core.sample_output(sample, x, self.dtype)


class CategoricalLatent(Sampler):
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
        with core.errors_of(self._name()):
            shape = (
                core.check_count("num_latents", self.num_latents),
                core.check_count("num_classes", self.num_classes),
            )
            logits = core.latent_logits(x, *shape)
            prior_logits = None
            if core.has_learned_prior(self.prior):
                prior_logits = self.param("prior_logits", nn.initializers.zeros, shape, jnp.float32)
            sample, temperature = self._draw(logits, where, deterministic, temperature, step, key)
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
        unimix: uniform share of the law, in [0, 1): keeps every choice possible.
        temperature: positive number, or a schedule (then the module owns a clock, the variable
            ``step`` of the collection ``anneal``; training calls need ``mutable=["anneal"]``).
        estimator: forward sample and gradient; see ``gs_modules.ESTIMATORS``. For ``k > 1`` the
            default.
        deterministic: default mode; None means False.
        dtype: of the weights; float32 by default.
        rng_collection: name of the key stream.

    Raises:
        TypeError: an option is of another type.
        ValueError: ``k`` is not in 1 to N, ``unimix`` is not in [0, 1), ``k > 1`` with another
            estimator.

    Example:
        >>> gate = GumbelGate(4, temperature=0.5)
        >>> keys = {"params": jax.random.key(0), "gumbel": jax.random.key(1)}
        >>> output, _ = gate.init_with_output(keys, jnp.ones((2, 5)))
        >>> output.weights.shape, output.index.shape, output.combine(jnp.ones((4, 2, 7))).shape
        ((2, 4), (2, 1), (2, 7))
        >>> GumbelGate(64, k=10).init_with_output(keys)[0].weights.sum().item()
        10.0
    """

    num_choices: int
    k: int = 1
    _: dataclasses.KW_ONLY
    unimix: float = 0.0

    @nn.compact
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
            step: overrides the clock, which is left at ``step + 1`` if it is mutable.
            key: overrides the stream.
        """
        with core.errors_of(self._name()):
            _, k, unimix = core.check_gate(self.num_choices, self.k, self.estimator, self.unimix)
            logits = self._logits(x)
            logits, law = core.gate_law(logits, where=where, bias=bias, unimix=unimix)
            weights, temperature = self._draw(law, None, deterministic, temperature, step, key, k)
            return core.gate_output(
                weights, logits, law, temperature, k=k, dtype=self.dtype, module=self._name()
            )

    @nn.nowrap
    def _logits(self, x: ArrayLike | None) -> jax.Array:
        if x is None:
            free = self.param("logits", nn.initializers.zeros, (self.num_choices,), jnp.float32)
            return free.astype(jnp.float32)
        dense = nn.Dense(self.num_choices, dtype=jnp.float32, name="dense")
        return dense(core.gate_features(x))


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

    def put(path, leaf):
        is_clock = getattr(path[-1], "key", None) == "step"
        return jnp.full_like(leaf, step, dtype=jnp.int32) if is_clock else leaf

    clocks = jax.tree_util.tree_map_with_path(put, variables[COLLECTION])
    return {**variables, COLLECTION: clocks}
