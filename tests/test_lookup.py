"""A lookup against the product of a hard sample and the table, with derivatives of both orders."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import gs_modules as gs

KEY = jax.random.key(29)
TEMPERATURE = 0.7


def by_product(logits, table, temperature):
    one_hot = gs.gumbel_softmax(KEY, logits, temperature, hard=True)
    return jnp.tensordot(one_hot, table, 1, precision="highest")


def by_lookup(logits, table, temperature):
    return gs.gumbel_lookup(KEY, logits, table, temperature)[0]


@pytest.fixture(scope="module", params=[2, 5, 1001])
def arguments(request):
    rng = np.random.default_rng(request.param)
    logits = rng.normal(size=(4, request.param)).astype(np.float32)
    logits[0, 0] = -np.inf
    table = rng.normal(size=(request.param, 3)).astype(np.float32)
    return jnp.asarray(logits), jnp.asarray(table), jnp.float32(TEMPERATURE)


def test_rows_and_first_derivatives_are_those_of_the_product(arguments):
    found = jax.jit(by_lookup)(*arguments)
    np.testing.assert_allclose(found, by_product(*arguments), rtol=1e-6)
    weights = jnp.cos(jnp.arange(found.size, dtype=jnp.float32)).reshape(found.shape)
    gradients = (jax.vjp(f, *arguments)[1](weights) for f in (by_lookup, by_product))
    for each in zip(*gradients, strict=True):
        np.testing.assert_allclose(*each, rtol=2e-5, atol=2e-6)
    tangents = jax.tree.map(lambda x: jnp.sin(jnp.where(jnp.isinf(x), 0, x)), arguments)
    one, other = (jax.jvp(f, arguments, tangents)[1] for f in (by_lookup, by_product))
    np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)


def curvatures(function, logits, table, temperature):
    """Of a loss that bends: twice forward, and forward over each reverse-mode gradient."""

    def loss(shift, scale, log_temperature):
        drawn = function(logits + shift, table * scale, temperature * jnp.exp(log_temperature))
        return jnp.sum(jnp.sin(drawn))

    positions = jnp.arange(logits.shape[-1], dtype=jnp.float32)
    point = jnp.zeros_like(positions), jnp.float32(1), jnp.float32(0)
    every = jnp.cos(positions), jnp.float32(0.3), jnp.float32(0.5)
    of_table = jnp.zeros_like(positions), jnp.float32(1), jnp.float32(0)

    def slope(*point):
        return jax.jvp(loss, point, every)[1]

    to_logits_and_temperature = jax.jvp(jax.grad(loss, (0, 2)), point, every)[1]
    to_table = jax.jvp(jax.grad(loss, 1), point, of_table)[1]
    return jax.jvp(slope, point, every)[1], *to_logits_and_temperature, to_table


def test_second_derivatives_are_those_of_the_product(arguments):
    with jax.numpy_rank_promotion("allow"):
        found, expected = (
            jax.jit(curvatures, static_argnums=0)(f, *arguments) for f in (by_lookup, by_product)
        )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5)


def test_the_index_has_no_derivative_and_rows_of_nan_give_none_to_the_table():
    logits = jnp.array([[0.0, jnp.nan], [0.0, 1.0], [-jnp.inf, -jnp.inf]])

    def total(table):
        rows, index = gs.gumbel_lookup(KEY, logits, table)
        assert index.dtype == jnp.int32
        return jnp.nansum(rows)

    index = int(gs.gumbel_max(KEY, logits)[1])
    expected = np.zeros((2, 3))
    expected[index] = 1
    np.testing.assert_array_equal(jax.grad(total)(jnp.ones((2, 3))), expected)


@pytest.mark.parametrize("shape", [(5,), (3, 5)], ids=str)
def test_keys_may_be_divided_by_an_explicit_mesh(shape):
    logits, table = jax.random.normal(KEY, shape), jax.random.normal(KEY, (5, 2))
    lookups = jax.jit(jax.vmap(functools.partial(gs.gumbel_lookup, logits=logits, table=table)))
    keys = jax.random.split(KEY, 4)
    expected = lookups(keys)
    mesh = jax.make_mesh((4,), ("keys",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        found = lookups(jax.reshard(keys, PartitionSpec("keys")))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
