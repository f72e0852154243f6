"""The state of Flax NNX models: clocks and streams set, restored, and seen to tick."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict

import gs_modules as core
from gs_modules._nnx_sampler import AnnealStep, Sampler


def set_step(model: nnx.Module, step: int | jax.Array) -> None:
    """Sets every clock in ``model`` to ``step``, in place; also under ``nnx.jit``.

    For gradient accumulation, for a layer called several times per update, or to resume from an
    optimizer's count.

    Raises:
        ValueError: the model has no clock.

    Example:
        >>> from gs_modules.nnx import GumbelSoftmax
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
        >>> from gs_modules.nnx import GumbelSoftmax
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
    for number, stream in enumerate(streams):
        own = jax.random.fold_in(key, number)
        shape = stream.key[...].shape  # of layers that nnx.vmap made
        stream.key[...] = jax.random.split(own, shape) if shape else own
        stream.count[...] = jnp.zeros_like(stream.count[...])


def assert_ticks(fn: Callable[..., Any], model: nnx.Module, *args: Any, **kwargs: Any) -> None:
    """Asserts that a training step moves the clock or the stream of every module in ``model``.

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
        >>> from gs_modules.nnx import GumbelSoftmax
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
        if isinstance(node, Sampler)
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
        >>> from gs_modules.nnx import GumbelSoftmax
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
        if is_key and getattr(given[path], "dtype", None) == jnp.uint32:  # likewise
            with contextlib.suppress(TypeError, ValueError):  # of a wrong length
                given[path] = jax.random.wrap_key_data(given[path])
    wrong = [f"lacks the {_kind(own[path])} {path}" for path in own if path not in given]
    wrong += [f"has {path}, which the model has not" for path in given if path not in own]
    for path in own.keys() & given.keys():
        expected, found = (_short_type(value) for value in (own[path][...], given[path]))
        if expected != found:
            wrong.append(f"has {path} as {found}, the model as {expected}")
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


def _short_type(value: Any) -> str:
    """dtype and shape, without the sharding, which may differ."""
    if not isinstance(value, (int, float, np.generic, np.ndarray, jax.Array)):
        return type(value).__name__
    aval = jax.typeof(value)
    return f"{aval.dtype}[{','.join(map(str, aval.shape))}]"
