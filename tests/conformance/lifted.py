"""Each framework's right way to transform a module: remat, scan over layers and time, vmap, shards.

``LIFTED[framework][way](make, x, keys)`` builds the module that ``make(**idioms)`` gives, calls it
in training once for each of ``keys``, and returns the samples of every call, with a leading axis of
layers, times or examples, and the clocks before the first call and after each.
"""

from __future__ import annotations

import haiku as hk
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from frameworks import sample_of
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import gs_modules.nnx

LAYERS, TIMES, EXAMPLES, SHARDS = 3, 3, 4, 4


def over_devices(train, x, keys, clock):
    """``train(x, key, clock)`` on a shard of ``x``, with a key of its own, on each device."""
    mesh = jax.make_mesh((SHARDS,), ("data",), axis_types=(AxisType.Auto,))

    def shard(x, key, clock):
        return train(x, jax.random.fold_in(key, jax.lax.axis_index("data")), clock)

    specs = {"in_specs": (P("data"), P(), P()), "out_specs": (P("data"), P())}
    step = jax.jit(jax.shard_map(shard, mesh=mesh, **specs))
    clocks, samples = [clock], []
    for key in keys:
        sample, clock = step(x, key, clocks[-1])
        samples.append(sample.reshape(SHARDS, -1, *sample.shape[1:]))
        clocks.append(clock)
    return samples, clocks


# --- NNX ---------------------------------------------------------------------------------------


def nnx_run(layer, call, x, keys):
    clocks, samples = [layer.step[...]], []
    for key in keys:
        gs_modules.nnx.set_key(layer, key)
        samples.append(call(layer, x))
        clocks.append(layer.step[...])
    return samples, clocks


def nnx_remat(make, x, keys):
    @nnx.jit
    def call(layer, x):
        loss = nnx.remat(lambda layer, x: (lambda y: (jnp.sum(jnp.sin(y)), y))(sample_of(layer(x))))
        (_, sample), _ = nnx.value_and_grad(loss, argnums=1, has_aux=True)(layer, x)
        return sample[None]

    return nnx_run(make(rngs=nnx.Rngs(0)), call, x, keys)


def nnx_layers(make, x, keys):
    @nnx.split_rngs(splits=LAYERS)
    @nnx.vmap
    def layers(rngs):
        return make(rngs=rngs)

    @nnx.jit
    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=(nnx.Carry, 0))
    def call(layer, x):
        return x, sample_of(layer(x))

    return nnx_run(layers(nnx.Rngs(0)), lambda layers, x: call(layers, x)[1], x, keys)


def nnx_times(make, x, keys):
    @nnx.jit
    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
    def call(layer, x):
        return layer, sample_of(layer(x))

    layer, xs = make(rngs=nnx.Rngs(0)), jnp.stack([x] * TIMES)
    return nnx_run(layer, lambda layer, x: call(layer, x)[1], xs, keys)


def nnx_examples(make, x, keys):
    @nnx.jit
    @nnx.split_rngs(splits=EXAMPLES)
    @nnx.vmap(in_axes=(nnx.StateAxes({nnx.RngState: 0, ...: None}), 0))
    def call(layer, x):
        return sample_of(layer(x))

    return nnx_run(make(rngs=nnx.Rngs(0)), call, x, keys)


def nnx_shards(make, x, keys):
    layer = make(rngs=nnx.Rngs(0))
    graph, state = nnx.split(layer)

    def train(x, key, clock):
        copy = nnx.merge(graph, state, copy=True)
        gs_modules.nnx.set_key(copy, key)
        gs_modules.nnx.set_step(copy, clock)
        return sample_of(copy(x)), copy.step[...]

    return over_devices(train, x, keys, layer.step[...])


# --- Linen -------------------------------------------------------------------------------------


class Applied(nn.Module):
    """A layer whose call returns ``(carry, sample)``, as a scan asks."""

    make: object

    @nn.compact
    def __call__(self, carry, x):
        return carry, sample_of(self.make()(x))


def linen_run(model, x, keys):
    variables = model.init({"params": jax.random.key(0), "gumbel": jax.random.key(0)}, x)

    @jax.jit
    def train(variables, x, key):
        return model.apply(variables, x, rngs={"gumbel": key}, mutable=["anneal"])

    clocks, samples = [jax.tree.leaves(variables["anneal"])[0]], []
    for key in keys:
        sample, state = train(variables, x, key)
        variables = {**variables, **state}
        samples.append(sample)
        clocks.append(jax.tree.leaves(variables["anneal"])[0])
    return samples, clocks


def linen_remat(make, x, keys):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            _, sample = nn.remat(Applied)(make)(0, x)
            return sample[None]

    return linen_run(Model(), x, keys)


def linen_layers(make, x, keys):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            layers = nn.scan(
                Applied,
                variable_axes={"params": 0, "anneal": 0},
                split_rngs={"params": True, "gumbel": True},
                length=LAYERS,
                in_axes=nn.broadcast,
            )
            return layers(make)(0, x)[1]

    return linen_run(Model(), x, keys)


def linen_times(make, x, keys):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, xs):
            times = nn.scan(
                Applied,
                variable_broadcast=("params", "anneal"),
                split_rngs={"params": False, "gumbel": True},
            )
            return times(make)(0, xs)[1]

    return linen_run(Model(), jnp.stack([x] * TIMES), keys)


def linen_examples(make, x, keys):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            examples = nn.vmap(
                Applied,
                variable_axes={"params": None, "anneal": None},
                split_rngs={"params": False, "gumbel": True},
                in_axes=(None, 0),
            )
            return examples(make)(0, x)[1]

    return linen_run(Model(), x, keys)


def linen_shards(make, x, keys):
    model = make()
    variables = model.init({"params": jax.random.key(0), "gumbel": jax.random.key(0)}, x)

    def train(x, key, clock):
        given = {**variables, "anneal": {"step": clock}}
        output, state = model.apply(given, x, rngs={"gumbel": key}, mutable=["anneal"])
        return sample_of(output), state["anneal"]["step"]

    return over_devices(train, x, keys, variables["anneal"]["step"])


# --- Haiku -------------------------------------------------------------------------------------


def haiku_run(forward, x, keys, before=lambda state: state):
    model = hk.transform_with_state(forward)
    params, state = model.init(jax.random.key(0), x)
    state = before(state)
    clocks, samples = [jax.tree.leaves(state)[0]], []
    for key in keys:
        sample, state = jax.jit(model.apply)(params, state, key, x)
        samples.append(sample)
        clocks.append(jax.tree.leaves(state)[0])
    return samples, clocks


def haiku_remat(make, x, keys):
    return haiku_run(lambda x: hk.remat(lambda x: sample_of(make()(x)))(x)[None], x, keys)


def haiku_layers(make, x, keys):
    def forward(x):
        def layer(x):
            return x, sample_of(make()(x))

        stack = hk.experimental.layer_stack(LAYERS, with_per_layer_inputs=True)
        return stack(layer)(x)[1]

    # layer_stack ticks in init: each clock starts at 1 until set_step puts it right.
    return haiku_run(forward, x, keys, before=lambda state: gs_modules.haiku.set_step(state, 0))


def haiku_times(make, x, keys):
    def forward(xs):
        layer = make()
        return hk.scan(lambda carry, x: (carry, sample_of(layer(x))), 0, xs)[1]

    return haiku_run(forward, jnp.stack([x] * TIMES), keys)


def haiku_examples(make, x, keys):
    def forward(x):
        layer = make()
        split_rng = not hk.running_init()
        return hk.vmap(lambda x: sample_of(layer(x)), split_rng=split_rng)(x)

    return haiku_run(forward, x, keys)


def haiku_shards(make, x, keys):
    model = hk.transform_with_state(lambda x: sample_of(make()(x)))
    params, state = model.init(jax.random.key(0), x)

    def train(x, key, clock):
        sample, after = model.apply(params, gs_modules.haiku.set_step(state, clock), key, x)
        return sample, jax.tree.leaves(after)[0]

    return over_devices(train, x, keys, jax.tree.leaves(state)[0])


WAYS = ["remat", "layers", "times", "examples", "shards"]
LIFTED = {
    name: {way: globals()[f"{name}_{way}"] for way in WAYS} for name in ("nnx", "linen", "haiku")
}
