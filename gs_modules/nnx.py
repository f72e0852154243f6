"""Flax NNX modules over the core.

Beware of two things of NNX. Raw ``jax.jit``, ``jax.vmap`` and ``jax.checkpoint`` drop the updates
of a module that is passed to them, its clock and its streams included: use ``nnx.jit`` and its kin.
And where no stream is called ``gumbel``, ``rngs.gumbel()`` draws NNX's own noise and no key; a key
is ``rngs["gumbel"]()``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict
from jax.typing import ArrayLike, DTypeLike

import gs_modules as core

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


_FAR = 2**30
"""A step and a count that no test reaches."""


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
        with core.errors_of(self._name()):
            self.temperature = core.check_temperature(temperature)
            self.estimator = core.check_estimator(estimator)
        # Not None: train() would change it, and with it the static part that nnx.jit traces for.
        self.deterministic = core.resolve_deterministic(None, deterministic)
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
        k: int = 1,
    ) -> tuple[jax.Array, ArrayLike | None]:
        """The sample, and the temperature that it was drawn at (None: deterministic)."""
        if core.resolve_deterministic(deterministic, self.deterministic):
            sample = core.draw_deterministic(logits, where=where, k=k)
            return sample, None
        used = None if self.rngs is None else self.rngs.count[...]
        at = self._step(step)
        temperature = core.resolve_temperature(self.temperature, temperature, at)
        key = self._key() if key is None else key
        try:
            sample = core.draw(self.estimator, key, logits, temperature, where=where, k=k)
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
                f"there is no key stream: build the module with "
                f"rngs=nnx.Rngs({self.rng_collection}=0), or call it with key=, or with "
                f"deterministic=True"
            )
        return self.rngs()

    def _step(self, step: Any) -> jax.Array | None:
        """The step of this call; None with a constant temperature."""
        if not callable(self.temperature):
            return None
        if step is None:
            step = core.check_clock(self.step[...])
        return core.as_step(step)

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
        with core.errors_of(self._name()):
            sample, _ = self._draw(x, where, deterministic, temperature, step, key)
            return core.sample_output(sample, x, self.dtype)


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
        with core.errors_of(self._name()):
            self.num_latents = core.check_count("num_latents", num_latents)
            self.num_classes = core.check_count("num_classes", num_classes)
        self.prior = prior
        if core.has_learned_prior(prior):
            self.prior_logits = nnx.Param(
                jnp.zeros((self.num_latents, self.num_classes), jnp.float32)
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
            prior_logits = self.prior_logits[...] if self.prior == "learned" else None
            return core.latent_output(
                sample, logits, prior_logits, temperature, where=where, dtype=self.dtype
            )


class GumbelGate(_Sampler):
    """Chooses k of N, by its input or by free logits; see ``gs_modules.GateOutput``.

    The law of one choice is ``(1 - unimix) * softmax(logits + bias) + unimix / N``, computed in
    float32 whatever the dtype of the model.

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
            core.check_gate(num_choices, k, estimator, unimix)
        self.num_choices = num_choices
        self.k = k
        self.unimix = unimix
        self.in_features = in_features
        if in_features is None:
            self.logits = nnx.Param(jnp.zeros(num_choices, jnp.float32))
        elif isinstance(rngs, nnx.Rngs):
            in_features = core.check_count("in_features", in_features)
            self.dense = nnx.Linear(in_features, num_choices, dtype=jnp.float32, rngs=rngs)
        else:
            raise ValueError(
                f"a gate with in_features makes parameters: write rngs=nnx.Rngs(0), got {rngs!r}"
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


def set_key(model: nnx.Module, key: jax.Array) -> None:
    """Gives every stream of ``model`` a key of its own made from ``key``, in place.

    Noise is then a function of ``key``, as with Linen's ``rngs=`` and Haiku's ``apply``: call it
    with ``fold_in(key, step)`` in each step to continue a run exactly, and under ``jax.shard_map``
    with ``fold_in(key, jax.lax.axis_index(name))``, so that devices draw differently. It reaches
    every stream, whatever its name: ``nnx.reseed(model, gumbel=key)`` passes over those that fell
    back to ``default``, without a word. It works under ``nnx.jit`` too.

    Raises:
        TypeError: ``key`` is no single key.
        ValueError: the model has no stream.

    Example:
        >>> layer = GumbelSoftmax(rngs=nnx.Rngs(0))
        >>> set_key(layer, jax.random.fold_in(jax.random.key(0), 7))
        >>> layer(jnp.zeros((2, 3))).shape
        (2, 3)
    """
    streams = [node for _, node in nnx.iter_graph(model) if isinstance(node, nnx.RngStream)]
    if not streams:
        raise ValueError(f"set_key: {type(model).__name__} holds no stream; build it with rngs=")
    with core.errors_of("set_key"):
        key = core.check_key(key)
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    for number, stream in enumerate(streams):
        own = jax.random.fold_in(key, number)
        shape = stream.key[...].shape  # of layers that nnx.vmap made
        stream.key[...] = jax.random.split(own, shape) if shape else own
        stream.count[...] = jnp.zeros_like(stream.count[...])


def assert_ticks(fn: Callable[..., Any], model: nnx.Module, *args: Any, **kwargs: Any) -> None:
    """That a training step moves the clock or the stream of every module in ``model``.

    Raw ``jax.jit``, ``jax.vmap`` and ``jax.checkpoint`` drop the updates of a module that is passed
    to them, without a word: the temperature never anneals and every step draws the same noise.
    Write this into a test. ``fn`` may call ``set_key`` and ``set_step``. A module that is called
    with ``key=``, and has no clock or one that ``fn`` sets, keeps nothing that could be dropped and
    cannot be told from one that does not tick.

    It calls ``fn`` on a copy; the model stays as it is. What else ``fn`` moves, an optimizer for
    instance, stays moved: give it one for the test.

    Args:
        fn: the training step, called as ``fn(model, *args, **kwargs)``.
        model: in training mode.
        *args: for ``fn``.
        **kwargs: for ``fn``.

    Raises:
        AssertionError: a module did not tick.
        ValueError: the model holds no module of this file.

    Example:
        >>> layer = GumbelSoftmax(rngs=nnx.Rngs(0))
        >>> assert_ticks(nnx.jit(lambda layer, x: layer(x)), layer, jnp.zeros((2, 3)))
        >>> assert_ticks(jax.jit(lambda layer, x: layer(x)), layer, jnp.zeros((2, 3)))
        Traceback (most recent call last):
        AssertionError: did not tick: GumbelSoftmax at the top; ...
    """
    copy = nnx.clone(model)
    samplers = {
        f"{type(node).__name__} at {_path(path) or 'the top'}": node
        for path, node in nnx.iter_graph(copy)
        if isinstance(node, _Sampler)
    }
    if not samplers:
        raise ValueError(f"assert_ticks: {type(model).__name__} holds no module of gs_modules.nnx")
    for sampler in samplers.values():
        sampler._wind()
    fn(copy, *args, **kwargs)
    still = [name for name, sampler in samplers.items() if not sampler._has_ticked()]
    if still:
        raise AssertionError(
            f"did not tick: {', '.join(still)}; use nnx.jit, nnx.vmap, nnx.remat, ... in place of "
            f"jax's own, which drop the updates of a module passed to them, and call model.train()"
        )


def restore(model: nnx.Module, state: nnx.State | dict[Any, Any]) -> None:
    """Puts ``state``, the whole of it, into ``model``, in place; anything missing is named.

    ``nnx.update`` takes a state without clocks or streams, such as the parameters alone, and says
    nothing: the temperature then starts anew.

    Args:
        model: of the same structure.
        state: what ``nnx.state(model)`` was, or its ``nnx.to_pure_dict``; also as orbax gives
            either without a target, with integer paths turned to strings.

    Raises:
        TypeError: ``state`` is neither a state nor a dict.
        ValueError: an entry is missing, unknown, or of another shape or dtype; nothing is changed.

    Example:
        >>> layer = GumbelSoftmax(temperature=core.Linear(1.0, 0.5, steps=10), rngs=nnx.Rngs(0))
        >>> restore(layer, nnx.state(layer, nnx.Param))
        Traceback (most recent call last):
        ValueError: restore: the state lacks the stream rngs/count, ... lacks the clock step; ...
    """
    if not isinstance(state, (nnx.State, dict)):
        raise TypeError(
            f"restore: state must be nnx.state(model) or a dict of it, got {type(state).__name__}"
        )
    pure = nnx.to_pure_dict(state) if isinstance(state, nnx.State) else state
    entries: dict[tuple[Any, ...], Any] = flatten_dict(pure)
    if all(path[-1] == "value" for path in entries):  # as orbax gives a State without a target
        entries = {path[:-1]: value for path, value in entries.items()}
    given = {_path(path): value for path, value in entries.items()}
    own = {
        _path(path): node for path, node in nnx.iter_graph(model) if isinstance(node, nnx.Variable)
    }
    for path in own.keys() & given.keys():
        is_key = jnp.issubdtype(own[path][...].dtype, jax.dtypes.prng_key)
        if is_key and given[path].dtype == jnp.uint32:  # likewise
            given[path] = jax.random.wrap_key_data(given[path])
    wrong = [f"lacks the {_kind(own[path])} {path}" for path in own if path not in given]
    wrong += [f"has {path}, which the model has not" for path in given if path not in own]
    for path in own.keys() & given.keys():
        expected, found = (jax.typeof(value) for value in (own[path][...], given[path]))
        if (expected.shape, expected.dtype) != (found.shape, found.dtype):
            wrong.append(f"has {path} as {found.str_short()}, the model as {expected.str_short()}")
    if wrong:
        raise ValueError(
            f"restore: the state {', '.join(wrong)}; save nnx.state(model), not nnx.Param alone"
        )
    for path, node in own.items():
        node[...] = given[path]


def _path(path: Sequence[Any]) -> str:
    return "/".join(map(str, path))


def _kind(variable: nnx.Variable) -> str:
    if isinstance(variable, AnnealStep):
        return "clock"
    return "stream" if isinstance(variable, nnx.RngState) else type(variable).__name__
