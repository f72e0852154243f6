"""What ``test_devices.py`` runs elsewhere: every sample on many devices, or on two processes.

``python devices.py FILE`` on eight simulated devices, ``python devices.py FILE ADDRESS PROCESS`` as
one of two processes that meet at ADDRESS. FILE receives the results, pickled.
"""

from __future__ import annotations

import functools
import inspect
import pickle
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import gs_modules as gs
from gs_modules._noise import explicit_sharding, gumbel_noise_like
from gs_modules._rows import argmax_by_one_reduction


def noise(key, logits, temperature):
    """The bits of the noise, 0 at a NaN, so that it is sharded as the logits are."""
    del temperature
    drawn = gumbel_noise_like(key, logits.astype(jnp.float32))
    return lax.bitcast_convert_type(jnp.where(jnp.isnan(logits), 0, drawn), jnp.int32)


def lookup(key, logits, temperature):
    # From an iota: a table of the host would be an array that every device holds whole.
    shape = (logits.shape[-1], 2)
    table = sum(lax.broadcasted_iota(jnp.float32, shape, axis) for axis in (0, 1))
    return gs.gumbel_lookup(key, logits, table / shape[0], temperature)


def argmax_off_a_cpu(key, logits, temperature):
    del key, temperature
    return argmax_by_one_reduction(lax.stop_gradient(logits), logits.ndim - 1)


def top_3(key, logits, temperature, *, hard=False):
    return gs.gumbel_top_k(key, logits, 3, temperature, hard=hard)


DRAWS = {
    "gumbel_noise": noise,
    "gumbel_softmax": gs.gumbel_softmax,
    "gumbel_softmax hard": functools.partial(gs.gumbel_softmax, hard=True),
    "argmax off a CPU": argmax_off_a_cpu,
    "gumbel_max": lambda key, logits, temperature: gs.gumbel_max(key, logits),
    "straight_through_argmax": lambda key, *arguments: gs.straight_through_argmax(*arguments),
    "gumbel_sigmoid": gs.gumbel_sigmoid,
    "gumbel_sigmoid hard": functools.partial(gs.gumbel_sigmoid, hard=True),
    "gumbel_top_k": top_3,
    "gumbel_top_k hard": functools.partial(top_3, hard=True),
    "gumbel_lookup": lookup,
    "estimator decoupled": gs.DecoupledStraightThrough(1.5),
    **{
        f"estimator {name}": cls()
        for name, cls in gs.ESTIMATORS.items()
        if all(p.default is not p.empty for p in inspect.signature(cls).parameters.values())
    },
}
"""``draw(key, logits, temperature)``, which may return several arrays, by a name for messages."""

OF_ELEMENTS = {"gumbel_noise", "gumbel_sigmoid", "gumbel_sigmoid hard"}
"""What has no row, and so nothing to exchange."""

FEW, MANY = "few classes", "many classes"
SHAPES = {FEW: (16, 40), MANY: (16, 2048)}
"""Eight devices hold 5 and 256 classes each, no multiple of a vector and one."""
LARGEST_WEIGHT = 3

LAYOUTS = [
    (FEW, 1, 0, AxisType.Auto),
    *((FEW, count, axis, AxisType.Auto) for count in (2, 4, 8) for axis in (0, 1)),
    *((FEW, 8, axis, AxisType.Explicit) for axis in (0, 1)),
    (MANY, 8, 0, AxisType.Auto),
]
"""Which logits, over how many devices, on which axis, on which kind of mesh."""
ALONE = [(MANY, 8, 1, kind) for kind in (AxisType.Auto, AxisType.Explicit)]
"""Every function compiled by itself, for its program to be read."""
PROCESSES = [(FEW, 4, axis, AxisType.Auto) for axis in (0, 1)]
"""Two processes of two devices each."""


def label(layout):
    classes, count, axis, kind = layout
    return f"{classes}, {count} devices, axis {axis}, {kind.name}"


def inputs(classes):
    """Logits with the rows that sharding might treat unlike one device, and a temperature a row."""
    rows, num_classes = SHAPES[classes]
    logits = np.random.default_rng(0).normal(size=(rows, num_classes)).astype(np.float32)
    half = num_classes // 2
    logits[0, half + 1] = np.nan
    logits[1] = -np.inf
    logits[2, [1, half, -1]] = np.inf
    logits[3, [half - 1, half, -1]] = 9.0
    logits[4, :half] = -np.inf
    logits[5] += 1e9
    temperature = np.linspace(1.0, 2.0, rows, dtype=np.float32)[:, None]
    return logits.astype(np.float32 if classes == FEW else jnp.bfloat16), temperature


def with_gradients(draw, key, logits, temperature):
    """The arrays drawn; if floating, the gradients of their weighted sum as well."""

    def loss(logits, temperature):
        drawn = jax.tree.leaves(draw(key, logits, temperature))
        total = jnp.float32(0)
        for leaf in filter(is_floating, drawn):
            axis, sharding = leaf.ndim - 1, explicit_sharding(leaf)
            position = lax.broadcasted_iota(jnp.int32, leaf.shape, axis, out_sharding=sharding)
            weights = (position % (2 * LARGEST_WEIGHT + 1) - LARGEST_WEIGHT).astype(leaf.dtype)
            total += jnp.sum(weights * leaf, dtype=jnp.float32)
        return total, drawn

    gradients, drawn = jax.grad(loss, (0, 1), has_aux=True)(logits, temperature)
    return drawn, gradients if any(map(is_floating, drawn)) else ()


def is_floating(array):
    return jnp.issubdtype(array.dtype, jnp.floating)


def everything(key, logits, temperature):
    return {name: with_gradients(draw, key, logits, temperature) for name, draw in DRAWS.items()}


def sharded_inputs(layout):
    classes, count, axis, kind = layout
    mesh = Mesh(np.array(jax.devices()[:count]), ("shards",), axis_types=(kind,))
    logits, temperature = inputs(classes)
    spec = PartitionSpec("shards", None) if axis == 0 else PartitionSpec(None, "shards")
    per_row = PartitionSpec("shards" if axis == 0 else None, None)

    def place(array, spec):
        return jax.make_array_from_callback(
            array.shape, NamedSharding(mesh, spec), lambda index: array[index]
        )

    return jax.random.key(7), place(logits, spec), place(temperature, per_row)


def on_eight_devices():
    jax.config.update("jax_num_cpu_devices", 8)
    results, programs = {}, {}
    for layout in LAYOUTS:
        results[label(layout)] = jax.device_get(jax.jit(everything)(*sharded_inputs(layout)))
    for layout in ALONE:
        results[label(layout)] = {}
        for name, draw in DRAWS.items():
            arguments = sharded_inputs(layout)
            function = jax.jit(functools.partial(with_gradients, draw))
            # With it, a new array on explicit axes is whole unless it is given a sharding.
            with jax.set_mesh(arguments[1].sharding.mesh):
                compiled = function.lower(*arguments).compile()
                results[label(layout)][name] = jax.device_get(compiled(*arguments))
            programs[label(layout), name] = compiled.as_text()
    return results, programs


def on_one_of_two_processes(address, process):
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, 2, process, initialization_timeout=30)
    results = {}
    for layout in PROCESSES:
        sharded = jax.jit(everything)(*sharded_inputs(layout))
        results[label(layout)] = multihost_utils.process_allgather(sharded, tiled=True)
    return results


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    file, *others = sys.argv[1:]
    written = on_one_of_two_processes(others[0], int(others[1])) if others else on_eight_devices()
    Path(file).write_bytes(pickle.dumps(written))
