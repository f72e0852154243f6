"""One face for the three frameworks: ``init``, ``train``, ``evaluate``, clocks and ``set_step``.

A model is a list of layers of ``gs_modules.<framework>``, each of them applied ``calls`` times to
one input; what it returns is the list of outputs (layers, then calls). ``params`` and ``state`` are
pytrees, ``state`` with everything that is not a parameter, and all methods work under ``jax.jit``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

import gs_modules.haiku
import gs_modules.linen
import gs_modules.nnx


class Layer(NamedTuple):
    """A class by its name, and the options that it is built with as pairs."""

    module: str
    options: tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class Model:
    """What every framework does with its layers; ``name`` is that of the front-end."""

    layers: tuple[Layer, ...]
    calls: int = 1

    name: str = dataclasses.field(init=False, default="")
    api: Any = dataclasses.field(init=False, default=None)
    base: type = dataclasses.field(init=False, default=object)

    def build(self, **options: Any) -> list[Callable]:
        """The layers, in the words of the framework."""
        return [getattr(self.api, name)(**dict(given), **options) for name, given in self.layers]

    def apply(self, layers: list[Callable], x: jax.Array, /, **call: Any) -> list[Any]:
        return [layer(x, **call) for layer in layers for _ in range(self.calls)]


class NNX(Model):
    """``state`` holds the graph definition, a pytree without leaves, and the streams.

    A key gives every stream its own; without one, the streams go on.
    """

    name, api, base = "nnx", gs_modules.nnx, nnx.Module

    def init(self, key, x):
        del x
        rngs = None if key is None else nnx.Rngs(params=key, gumbel=key)
        params, state = self._split(nnx.List(self.build(rngs=rngs)))
        return transparent(params), state

    def drawn_in_init(self, key, x):
        """Nothing: a constructor draws no sample."""
        del key, x
        return []

    def _split(self, model):
        graph, params, others = nnx.split(model, nnx.Param, ...)
        return params, (graph, others)

    def merge(self, params, state):
        return nnx.merge(state[0], params, state[1], copy=True)

    def train(self, params, state, key, x, /, **call):
        model = self.merge(params, state)
        if key is not None:
            gs_modules.nnx.set_key(model, key)
        outputs = self.apply(model, x, **call)
        return outputs, self._split(model)[1]

    def evaluate(self, params, state, x, /, **call):
        return self.apply(self.merge(params, state), x, deterministic=True, **call)

    def clocks(self, state):
        leaves = jax.tree.leaves(state, is_leaf=_is_clock)
        return [leaf[...] for leaf in leaves if _is_clock(leaf)]

    def with_clocks(self, state, value):
        return jax.tree.map(
            lambda leaf: leaf.replace(value) if _is_clock(leaf) else leaf, state, is_leaf=_is_clock
        )

    def set_step(self, params, state, step):
        model = self.merge(params, state)
        gs_modules.nnx.set_step(model, step)
        return self._split(model)[1]


def _is_clock(leaf):
    return isinstance(leaf, gs_modules.nnx.AnnealStep)


class Linen(Model):
    name, api, base = "linen", gs_modules.linen, nn.Module

    class Stack(nn.Module):
        model: Model

        @nn.compact
        def __call__(self, x, /, **call):
            return self.model.apply(self.model.build(), x, **call)

    def init(self, key, x):
        variables = self.Stack(self).init({"params": key, "gumbel": key}, x)
        return transparent(variables.get("params", {})), {"anneal": variables.get("anneal", {})}

    def drawn_in_init(self, key, x):
        return self.Stack(self).init_with_output({"params": key, "gumbel": key}, x)[0]

    def train(self, params, state, key, x, /, **call):
        rngs = None if key is None else {"gumbel": key}
        variables = {"params": params, **state}
        outputs, new = self.Stack(self).apply(variables, x, rngs=rngs, mutable=["anneal"], **call)
        return outputs, {**state, **new}

    def evaluate(self, params, state, x, /, **call):
        del state
        return self.Stack(self).apply({"params": params}, x, deterministic=True, **call)

    def clocks(self, state):
        return jax.tree.leaves(state)

    def with_clocks(self, state, value):
        return jax.tree.map(lambda leaf: value, state)

    def set_step(self, params, state, step):
        del params
        return gs_modules.linen.set_step(state, step)


class Haiku(Model):
    name, api, base = "haiku", gs_modules.haiku, hk.Module

    def transformed(self, transform=hk.transform_with_state):
        return transform(lambda x, /, **call: self.apply(self.build(), x, **call))

    def init(self, key, x):
        params, state = self.transformed().init(key, x)
        return transparent(params), state

    def drawn_in_init(self, key, x):
        drawn = []
        forward = hk.transform_with_state(lambda x: drawn.extend(self.apply(self.build(), x)))
        with jax.disable_jit():
            forward.init(key, x)
        return drawn

    def train(self, params, state, key, x, /, **call):
        return self.transformed().apply(params, state, key, x, **call)

    def evaluate(self, params, state, x, /, **call):
        del state
        return self.transformed().apply(params, {}, None, x, deterministic=True, **call)[0]

    def clocks(self, state):
        return jax.tree.leaves(state)

    def with_clocks(self, state, value):
        return jax.tree.map(lambda leaf: value, state)

    def set_step(self, params, state, step):
        del params
        return gs_modules.haiku.set_step(state, step)


FRAMEWORKS = [NNX, Linen, Haiku]

LATENTS, CLASSES = 2, 3
REQUIRED = {
    "GumbelSoftmax": {},
    "CategoricalLatent": {"num_latents": LATENTS, "num_classes": CLASSES},
    "GumbelGate": {"num_choices": LATENTS * CLASSES},
}
"""The options without a default of every module that there is."""


def required(framework, module):
    """The options that a module of this framework cannot be built without, for ``inputs``."""
    idioms = {("nnx", "GumbelGate"): {"in_features": LATENTS * CLASSES}}
    return REQUIRED[module] | idioms.get((framework.name, module), {})


def logits_of(module, x):
    """What the module, if ``transparent``, samples when it is called on ``x``, ``[B, 6]``."""
    if module == "GumbelGate":
        return x.astype(jnp.float32)
    return x.reshape(-1, LATENTS, CLASSES) if module == "CategoricalLatent" else x


def sample_of(output):
    if isinstance(output, gs_modules.GateOutput):
        return output.weights
    return output if isinstance(output, jax.Array) else output.sample


def transparent(params):
    """Parameters of gates whose dense layer gives its input back."""
    size = LATENTS * CLASSES
    return jax.tree.map(lambda leaf: jnp.eye(size) if leaf.shape == (size, size) else leaf, params)


def public_modules(framework):
    values = {name: getattr(framework.api, name) for name in framework.api.__all__}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, type) and issubclass(value, framework.base)
    }


def model(framework, module, /, count=1, calls=1, **options):
    layer = Layer(module, tuple((required(framework, module) | options).items()))
    return framework((layer,) * count, calls)


def inputs(dtype=jnp.float32, batch=4):
    return jax.random.normal(jax.random.key(5), (batch, LATENTS * CLASSES), dtype)
