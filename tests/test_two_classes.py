"""Two classes, drawn by one logistic noise a row. Oracles: ``gumbel_sigmoid`` and the law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import gs_modules as gs

KEY = jax.random.key(17)
ODDS = jax.random.normal(jax.random.key(1), (5, 7))
INF, NAN = np.inf, np.nan


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("temperature", [1e-30, 0.3, 2.0])
def test_the_first_of_two_weights_is_the_binary_sample_of_the_same_key(axis, temperature):
    pair = jnp.stack([ODDS, jnp.zeros_like(ODDS)], axis)

    def first(odds, temperature):
        drawn = gs.gumbel_softmax(
            KEY, pair + jnp.stack([odds, 0 * odds], axis), temperature, axis=axis
        )
        return drawn.take(0, axis)

    def binary(odds, temperature):
        return gs.gumbel_sigmoid(KEY, ODDS + odds, temperature)

    zero, tangents = jnp.zeros_like(ODDS), (jnp.ones_like(ODDS), jnp.float32(0))
    found, slope = jax.jvp(first, (zero, jnp.float32(temperature)), tangents)
    expected, expected_slope = jax.jvp(binary, (zero, jnp.float32(temperature)), tangents)
    np.testing.assert_allclose(found, expected, atol=8 * 2.0**-23 / min(1, max(temperature, 0.1)))
    if temperature > 0.1:
        np.testing.assert_allclose(slope, expected_slope, atol=8 * 2.0**-23 / temperature)
    hard = gs.gumbel_softmax(KEY, pair, temperature, hard=True, axis=axis)
    of_binary = gs.gumbel_sigmoid(KEY, ODDS, hard=True)
    np.testing.assert_array_equal(hard, jnp.stack([of_binary, 1 - of_binary], axis))
    np.testing.assert_array_equal(gs.gumbel_max(KEY, pair, axis=axis), 1 - of_binary)


EDGES = {
    "no_class": ([-INF, -INF], [0, 0]),
    "first_excluded": ([-INF, 3.0], [0, 1]),
    "second_excluded": ([-1e9, -INF], [1, 0]),
    "first_certain": ([INF, 1e30], [1, 0]),
    "second_certain": ([-3.4e38, INF], [0, 1]),
    "nan": ([NAN, 0.0], [NAN, NAN]),
    "nan_beside_infinite": ([INF, NAN], [NAN, NAN]),
}


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
def test_edges(name, hard):
    logits, expected = EDGES[name]
    rows = jnp.array([logits, [0.5, 0.0]])

    def loss(rows, temperature):
        drawn = gs.gumbel_softmax(KEY, rows, temperature, hard=hard)
        return jnp.sum(jnp.array([[1.0, -2.0]]) * drawn), drawn

    (to_rows, to_temperature), drawn = jax.grad(loss, (0, 1), has_aux=True)(rows, jnp.float32(0.5))
    np.testing.assert_array_equal(drawn[0], expected)
    alone = gs.gumbel_softmax(KEY, rows.at[0].set(0.0), 0.5, hard=hard)[1]
    np.testing.assert_array_equal(drawn[1], alone)  # bitwise untouched by the row beside it
    index = {0.0: -1, 1.0: expected.index(1) if 1 in expected else None}.get(sum(expected), -1)
    assert gs.gumbel_max(KEY, rows)[0] == index
    if "nan" not in name:
        np.testing.assert_array_equal(to_rows[0], 0)
        assert np.isfinite(to_temperature)


@pytest.mark.parametrize("value", [INF, 1e9, 3.4028235e38])
def test_two_equal_and_huge_logits_share_the_mass(value):
    index = gs.gumbel_max(KEY, jnp.full((100_000, 2), value))
    assert abs(np.mean(np.asarray(index)) - 0.5) < 5 * 0.5 / 100_000**0.5


def test_a_mask_and_vmap_over_keys():
    keys = jax.random.split(KEY, 3)
    logits = jnp.stack([ODDS, -ODDS], -1)
    where = jnp.array([True, False])

    def draw(key):
        masked = gs.gumbel_softmax(key, logits, 0.5, where=where)
        return masked, gs.gumbel_softmax(key, logits, 0.5, hard=True)

    masked, hard = jax.vmap(draw)(keys)
    np.testing.assert_array_equal(masked, np.broadcast_to([1.0, 0.0], masked.shape))
    np.testing.assert_array_equal(hard, [draw(key)[1] for key in keys])


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_a_class_on_each_of_two_devices(kind):
    mesh = jax.make_mesh((2,), ("shards",), axis_types=(kind,))
    logits = jnp.stack([ODDS, jnp.zeros_like(ODDS)], -1)
    sharded = jax.device_put(logits, NamedSharding(mesh, PartitionSpec(None, None, "shards")))
    draw = jax.jit(lambda logits: gs.gumbel_softmax(KEY, logits, 0.5, hard=True))
    np.testing.assert_array_equal(draw(sharded), draw(logits))
