"""Usage of codes and choices: counts that merge, and the perplexity of the whole."""

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


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int8, jnp.uint16, jnp.uint32])
def test_codes_of_any_integer_dtype_are_counted_as_the_numbers_that_they_are(dtype):
    codes = jnp.array([[1], [2], [3]], dtype)
    for num_classes in (4, 256, 300, 70_000):
        expected = np.bincount([1, 2, 3], minlength=num_classes)
        np.testing.assert_array_equal(Usage.of(codes, num_classes).counts, [expected])
        kept = Usage.of(codes, num_classes, where=jnp.array([True, False, False]))
        np.testing.assert_array_equal(kept.counts, [np.arange(num_classes) == 1])
    np.testing.assert_array_equal(Usage.of(np.array([[2**32 + 1]]), 4).counts, [[0, 0, 0, 0]])


def test_counts_are_int32_under_x64_too():
    with jax.enable_x64(True):
        usage = Usage.of(jnp.asarray(CODES), 6)
        assert usage.counts.dtype == usage.codes_used.dtype == jnp.int32
        np.testing.assert_array_equal(usage.counts, counted(CODES, 6))


def test_no_codes_at_all_are_no_error():
    usage = Usage.of(jnp.zeros((0, 2), jnp.int32), 3)
    np.testing.assert_array_equal(usage.counts, np.zeros((2, 3)))
    assert usage.codes_used == 0 and np.all(usage.perplexity == 1)


def test_codes_that_are_not_integers_are_refused():
    with pytest.raises(TypeError, match="index"):
        Usage.of(jnp.zeros((2, 3)), 4)


def test_examples_that_are_left_out_are_not_counted():
    where = np.arange(24).reshape(6, 4) % 3 != 0
    usage = Usage.of(jnp.asarray(CODES), 6, where=jnp.asarray(where))
    np.testing.assert_array_equal(usage.counts, counted(CODES[where], 6))
    by_row = Usage.of(jnp.asarray(CODES), 6, where=jnp.array([True, False, True, True]))
    np.testing.assert_array_equal(by_row.counts, counted(CODES[:, [0, 2, 3]], 6))
    with pytest.raises(TypeError, match="where must be boolean"):
        Usage.of(jnp.asarray(CODES), 6, where=jnp.ones(4))
    with pytest.raises(ValueError, match=r"where of shape \(5,\).*examples of shape \(6, 4\)"):
        Usage.of(jnp.asarray(CODES), 6, where=jnp.ones(5, bool))


def test_counts_add_up_over_mapped_devices():
    shards = jnp.asarray(CODES).reshape(2, 3, 4, 3)
    counted_once = jax.vmap(
        lambda codes: Usage.of(codes, 6, axis_name="data"), axis_name="data", out_axes=None
    )(shards)
    np.testing.assert_array_equal(counted_once.counts, counted(CODES, 6))


def test_counts_stop_at_their_largest_and_keep_the_perplexity_right():
    last = 2**31 - 1
    usage = Usage(jnp.array([last - 3, last, 5], jnp.int32))
    more = usage.merge(Usage(jnp.array([10, 1, 1], jnp.int32)))
    np.testing.assert_array_equal(more.counts, [last, last, 6])
    np.testing.assert_allclose(more.perplexity, 2, rtol=1e-6)  # their sum is no int32


def test_dead_codes_are_listed_for_a_gate_and_for_each_latent():
    assert Usage(jnp.array([3, 0, 1, 0])).list_dead() == [1, 3]
    assert Usage(jnp.array([[3, 0], [1, 2], [0, 0]])).list_dead() == [[1], [], [0, 1]]


def test_perplexity_of_the_whole_is_no_mean_of_perplexities():
    first, second = (Usage.of(jnp.full((8, 1), code), 2) for code in (0, 1))
    assert first.perplexity == second.perplexity == 1
    np.testing.assert_allclose(first.merge(second).perplexity, 2, rtol=1e-6)
