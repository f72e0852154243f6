"""Code usage: counts that merge, and the perplexity of the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gs_modules import Usage

CODES = np.random.default_rng(0).integers(0, 5, (6, 4, 3)) ** 2 // 4  # 0, 1, 2 or 4: never 3


def counted(codes, num_classes):
    flat = np.asarray(codes).reshape(-1, codes.shape[-1])
    return np.stack([np.bincount(column, minlength=num_classes) for column in flat.T])


def test_counts_perplexity_and_dead_codes_are_those_of_numpy():
    usage = jax.jit(Usage.of, static_argnums=1)(jnp.asarray(CODES), 6)
    expected = counted(CODES, 6)
    assert usage.counts.dtype == jnp.int32
    np.testing.assert_array_equal(usage.counts, expected)
    perplexity = np.exp([stats.entropy(row) for row in expected])
    np.testing.assert_allclose(usage.perplexity, perplexity, rtol=1e-6)
    np.testing.assert_array_equal(usage.dead, expected == 0)
    assert usage.codes_used == np.sum(expected > 0) and np.all(usage.dead[:, [3, 5]])


def test_parts_merge_to_the_whole_in_any_order_and_on_any_axis():
    whole = Usage.of(jnp.asarray(CODES), 6)
    parts = [Usage.of(jnp.asarray(part), 6) for part in np.split(CODES, 3)]
    merged = parts[2].merge(parts[0]).merge(parts[1])
    np.testing.assert_array_equal(merged.counts, whole.counts)
    np.testing.assert_array_equal(merged.perplexity, whole.perplexity)
    by_example = jax.vmap(lambda codes: Usage.of(codes, 6))(jnp.asarray(CODES))
    summed = jax.tree.map(lambda counts: counts.sum(0), by_example)
    np.testing.assert_array_equal(summed.counts, whole.counts)


@pytest.mark.parametrize(
    ("counts", "perplexity"),
    [([7, 7, 7, 7], 4), ([9, 0, 0, 0], 1), ([1, 1, 0, 0], 2), ([0, 0, 0, 0], 1), ([10**8] * 4, 4)],
)
def test_perplexity_of_closed_forms(counts, perplexity):
    usage = Usage(jnp.array([counts]))
    np.testing.assert_allclose(usage.perplexity, [perplexity], rtol=1e-6)


def test_codes_outside_the_range_such_as_those_of_nan_rows_are_not_counted():
    usage = Usage.of(jnp.array([[-1, 0], [1, 4], [-1, 3]]), 4)
    np.testing.assert_array_equal(usage.counts, [[0, 1, 0, 0], [1, 0, 0, 1]])


def test_no_codes_at_all_are_no_error():
    usage = Usage.of(jnp.zeros((0, 2), jnp.int32), 3)
    np.testing.assert_array_equal(usage.counts, np.zeros((2, 3)))
    assert usage.codes_used == 0 and np.all(usage.perplexity == 1)


def test_codes_that_are_not_integers_are_refused():
    with pytest.raises(TypeError, match="index"):
        Usage.of(jnp.zeros((2, 3)), 4)
