"""dm-haiku modules over the core."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

import gs_modules as core
from gs_modules._haiku_sampler import Sampler

__all__ = ["CategoricalLatent", "GumbelGate", "GumbelSoftmax", "set_step"]


class GumbelSoftmax(Sampler):
    """Samples its input, logits ``[..., K]``; the one-hot argmax when deterministic.

    Args:
        temperature: positive number, or a schedule (then the module owns a clock, the state
            ``step``, and needs ``hk.transform_with_state``).
        estimator: forward sample and gradient; see ``gs_modules.ESTIMATORS``.
        deterministic: default mode; None means False.
        dtype: of the sample; that of the logits by default.
        rng_collection: there for the same signature everywhere; Haiku has a single stream.
        name: of the module.

    Example:
        >>> schedule = core.Exponential(1.0, 0.5, rate=1e-3)
        >>> model = hk.transform_with_state(lambda x: GumbelSoftmax(temperature=schedule)(x))
        >>> x, key = jnp.zeros((2, 3)), jax.random.key(0)
        >>> params, state = model.init(key, x)
        >>> sample, state = model.apply(params, state, key, x)
        >>> sample.shape, state["gumbel_softmax"]["step"].item()
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
        temperature: positive number, or a schedule (then the module owns a clock, the state
            ``step``, and needs ``hk.transform_with_state``).
        estimator: forward sample and gradient; see ``gs_modules.ESTIMATORS``.
        deterministic: default mode; None means False.
        dtype: of the sample; that of the logits by default.
        rng_collection: there for the same signature everywhere; Haiku has a single stream.
        name: of the module.

    Example:
        >>> model = hk.transform(lambda x: CategoricalLatent(3, 4, temperature=0.5)(x))
        >>> output = model.apply({}, jax.random.key(0), jnp.zeros((2, 12)))
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
        name: str | None = None,
    ):
        super().__init__(
            temperature=temperature,
            estimator=estimator,
            deterministic=deterministic,
            dtype=dtype,
            rng_collection=rng_collection,
            name=name,
        )
        with core.errors_of(self._name()):
            self.num_latents = core.check_count("num_latents", num_latents)
            self.num_classes = core.check_count("num_classes", num_classes)
            core.has_learned_prior(prior)
        self.prior: core.Prior = prior

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
            prior_logits = None
            if core.has_learned_prior(self.prior):
                shape = (self.num_latents, self.num_classes)
                prior_logits = hk.get_parameter("prior_logits", shape, init=jnp.zeros)
            sample, temperature = self._draw(logits, where, deterministic, temperature, step, key)
            return core.latent_output(
                sample, logits, prior_logits, temperature, where=where, dtype=self.dtype
            )


class _Dense(hk.Linear):
    """The dense layer of a gate, which a mixed-precision policy for ``hk.Linear`` leaves alone."""


class GumbelGate(Sampler):
    """Chooses k of N, by its input or by free logits; see ``gs_modules.GateOutput``.

    The law of one choice is ``(1 - unimix) * softmax(logits + bias) + unimix / M`` over the M
    choices that ``where`` keeps, computed in float32 whatever the dtype of the model.

    Args:
        num_choices: N.
        k: how many different choices are made, 1 to N; more than one by ``gumbel_top_k``.
        unimix: uniform share of the law, in [0, 1): keeps every choice possible.
        temperature: positive number, or a schedule (then the module owns a clock, the state
            ``step``, and needs ``hk.transform_with_state``).
        estimator: forward sample and gradient; see ``gs_modules.ESTIMATORS``. For ``k > 1`` the
            default.
        deterministic: default mode; None means False.
        dtype: of the weights; float32 by default.
        rng_collection: there for the same signature everywhere; Haiku has a single stream.
        name: of the module.

    Raises:
        TypeError: an option is of another type.
        ValueError: ``k`` is not in 1 to N, ``unimix`` is not in [0, 1), ``k > 1`` with another
            estimator.

    Example:
        >>> model = hk.transform(lambda x: GumbelGate(4, temperature=0.5)(x))
        >>> key = jax.random.key(0)
        >>> output = model.apply(model.init(key, jnp.ones((2, 5))), key, jnp.ones((2, 5)))
        >>> output.weights.shape, output.index.shape, output.combine(jnp.ones((4, 2, 7))).shape
        ((2, 4), (2, 1), (2, 7))
        >>> free = hk.transform(lambda: GumbelGate(64, k=10)())
        >>> free.apply(free.init(key), key).weights.sum().item()
        10.0
    """

    def __init__(
        self,
        num_choices: int,
        k: int = 1,
        *,
        unimix: float = 0.0,
        temperature: float | core.Schedule = 1.0,
        estimator: core.Estimator = core.StraightThroughGumbel(),
        deterministic: bool | None = None,
        dtype: DTypeLike | None = None,
        rng_collection: str = "gumbel",
        name: str | None = None,
    ):
        super().__init__(
            temperature=temperature,
            estimator=estimator,
            deterministic=deterministic,
            dtype=dtype,
            rng_collection=rng_collection,
            name=name,
        )
        with core.errors_of(self._name()):
            self.num_choices, self.k, self.unimix = core.check_gate(
                num_choices, k, estimator, unimix
            )

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

    @hk.transparent  # the path of the dense layer is a name in checkpoints
    def _logits(self, x: ArrayLike | None) -> jax.Array:
        if x is None:
            free = hk.get_parameter("logits", (self.num_choices,), init=jnp.zeros)
            return free.astype(jnp.float32)
        # As Flax's: Haiku's own default differs in scale.
        init = hk.initializers.VarianceScaling(1.0, "fan_in", "truncated_normal")
        dense = _Dense(self.num_choices, w_init=init, name="dense")
        return dense(core.gate_features(x))


def set_step(state: Mapping[str, Mapping[str, Any]], step: int | jax.Array) -> dict[str, Any]:
    """``state`` with every clock at ``step``; also under ``jax.jit``.

    For gradient accumulation, for a layer called several times per update, or to resume from an
    optimizer's count. A clock is a state named ``step``.

    Raises:
        ValueError: ``state`` holds no clock.

    Example:
        >>> schedule = core.Linear(1.0, 0.5, steps=10)
        >>> model = hk.transform_with_state(lambda x: GumbelSoftmax(temperature=schedule)(x))
        >>> _, state = model.init(jax.random.key(0), jnp.zeros((2, 3)))
        >>> set_step(state, 7)["gumbel_softmax"]["step"].item()
        7
    """
    if not any("step" in entries for entries in state.values()):
        raise ValueError(f"set_step: no state `step` in {sorted(state)}; pass init's state")
    step = core.as_step(step)
    return {
        module: {
            name: jnp.full_like(value, step, dtype=jnp.int32) if name == "step" else value
            for name, value in entries.items()
        }
        for module, entries in state.items()
    }
