"""The law of every hard sample, by exact tests with fixed keys and many draws.

The oracle is the softmax, in float64, of the logits rounded to their dtype. Each test fails by
chance with a probability of 1e-6. What textbook code gets wrong must fail the same tests: it is
drawn, or its law is enumerated, beside them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import special, stats

import gs_modules as gs

FALSE_ALARM = 1e-6
KEY = jax.random.key(7)
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
NOISES_AT_ONCE = 10**6
"""Per step of a compiled loop: 1e9 draws then need no more memory than 1e6."""

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)


def counts_of(draw, logits, draws, dtype=jnp.float32, key=KEY):
    """How often ``draw(key, rows)``, boolean ``[draws, ...]``, is true, for rows of ``logits``."""
    wide = jnp.asarray(logits, jnp.float64 if dtype == jnp.float64 else jnp.float32)
    rows = min(draws, NOISES_AT_ONCE // wide.size)
    if draws % rows:
        raise ValueError(f"{draws} draws are not a multiple of {rows}")
    return np.asarray(_counts(draw, key, wide, rows, draws // rows, dtype))


@functools.partial(jax.jit, static_argnums=(0, 3, 4, 5))
def _counts(draw, key, logits, rows, chunks, dtype):
    def count(chunk):
        # The cast is compiled with what follows, where XLA could leave it out.
        same = jnp.broadcast_to(logits.astype(dtype), (rows, *logits.shape))
        return draw(jax.random.fold_in(key, chunk), same).sum(0, dtype=jnp.int32)

    return lax.map(count, jnp.arange(chunks)).sum(0, dtype=jnp.int32)


def rounded(logits, dtype):
    return np.asarray(jnp.asarray(logits, jnp.float32).astype(dtype)).astype(np.float64)


def probabilities(logits, dtype=jnp.float32):
    return special.softmax(rounded(logits, dtype))


def binomial_p_value(counts, draws, probability):
    """Exact and two-sided: twice the smaller tail."""
    binomial = stats.binom(draws, probability)
    tail = np.minimum(binomial.cdf(counts), binomial.sf(np.subtract(counts, 1)))
    return np.minimum(2 * tail, 1)


def follow(counts, law):
    """Whether a chi-square test and an exact binomial one of every class and half accept."""
    kept = law > 1e-12
    assert np.all(counts[~kept] == 0)
    counts, law, draws = counts[kept], law[kept] / law[kept].sum(), counts.sum()
    assert np.all(draws * law > 19)
    half = law.size // 2
    chi_square = stats.chisquare(counts, draws * law).pvalue
    of_half = binomial_p_value(counts[:half].sum(), draws, law[:half].sum())
    p_values = [chi_square, of_half, *binomial_p_value(counts, draws, law)]
    return min(p_values) * len(p_values) > FALSE_ALARM


def chosen(index, num_classes):
    return index[..., None] == lax.broadcasted_iota(
        jnp.int32, (*index.shape, num_classes), index.ndim
    )


def hard_and_index(key, logits):
    """The one-hot sample and the index, by one key: ``[draws, 2, K]``."""
    hard = gs.gumbel_softmax(key, logits, 0.1, hard=True) == 1
    index = chosen(gs.gumbel_max(key, logits), logits.shape[-1])
    return jnp.stack([hard, index], 1)


def textbook(key, logits):
    """``argmax(logits + G)`` with the noise drawn in the dtype of the logits, as elsewhere."""
    smallest = float(jnp.finfo(logits.dtype).tiny)
    uniform = jax.random.uniform(key, logits.shape, logits.dtype, minval=smallest)
    noise = -jnp.log(-jnp.log(uniform))
    return chosen((logits + noise).argmax(-1), logits.shape[-1])


# --- classes -----------------------------------------------------------------------------------

SKEWED = np.log([0.9, 0.09, 0.009, 0.0009, 0.0001])


def among_many(logits, num_classes=1009):
    """Spread over more than 1,000 classes, of which the others are excluded."""
    spread = np.full(num_classes, -np.inf)
    spread[:: num_classes // len(logits)][: len(logits)] = logits
    return spread


LAWS = {
    "two": ([0.3, 0.0], 10**6),
    "skewed": (SKEWED, 2 * 10**6),
    "ten_equal": ([0.0] * 10, 200_000),
    "thousand_equal": ([0.0] * 1000, 40_000),
    "excluded": ([2.0, -1.0, -np.inf, 0.5, 0.0], 200_000),
    "large": ([1e4, 1e4 - 8.0, 1e4, 0.0], 500_000),
    "skewed_among_many": (among_many(SKEWED), 500 * 991),
    "large_among_many": (among_many([1e4, 1e4 - 8.0, 1e4, 0.0]), 500 * 991),
    "many_equal": ([0.0] * 1001, 40 * 999),
}


@pytest.mark.parametrize("name", LAWS)
@dtypes
def test_hard_samples_and_indices_follow_the_law_of_the_rounded_logits(dtype, name):
    logits, draws = LAWS[name]
    for counts in counts_of(hard_and_index, logits, draws, dtype):
        assert counts.sum() == draws
        assert follow(counts, probabilities(logits, dtype))


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_noise_of_half_precision_would_not(dtype):
    logits, draws = LAWS["thousand_equal"]
    counts = counts_of(textbook, logits, draws, dtype)
    assert counts.sum() == draws
    assert not follow(counts, probabilities(logits, dtype))


def test_hard_samples_of_float64_logits_follow_the_law():
    logits = [2.0, -1.0, 0.5, 0.0]
    with jax.enable_x64(True):
        for counts in counts_of(hard_and_index, logits, 500_000, jnp.float64):
            assert follow(counts, special.softmax(logits))


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_the_draws_tell_rounded_logits_from_exact_ones(dtype):
    logits = [100.3, 100.0, 99.8, 100.1]
    for counts in counts_of(hard_and_index, logits, 10**6, dtype):
        assert follow(counts, probabilities(logits, dtype))
        assert not follow(counts, probabilities(logits))


@pytest.mark.parametrize("value", [1e9, -1e9, 3.4028235e38, np.inf])
def test_huge_and_infinite_equal_logits_share_the_mass(value):
    logits = [value, value, -np.inf, value]
    for counts in counts_of(hard_and_index, logits, 250_000):
        assert follow(counts, np.array([1, 1, 0, 1]) / 3)
    for counts in counts_of(hard_and_index, among_many(logits), 50 * 991):
        assert follow(counts, among_many(logits) == value)


def test_noise_added_to_huge_logits_would_not_share_it():
    counts = counts_of(textbook, [1e9, 1e9, -np.inf, 1e9], 250_000)
    assert not follow(counts, np.array([1, 1, 0, 1]) / 3)


def test_a_shift_of_the_logits_changes_no_index():
    logits = jnp.broadcast_to(jnp.array([0.0, 64.0, 64.0, 0.0]), (1000, 4))
    shifted = logits + 2.0**29  # exact: 64 is the spacing of float32 there
    np.testing.assert_array_equal(gs.gumbel_max(KEY, shifted), gs.gumbel_max(KEY, logits))


def test_each_axis_gives_the_law_along_that_axis():
    logits = jnp.log(jnp.array([0.2, 0.3, 0.5])).reshape(3, 1)
    rows = jnp.broadcast_to(logits, (20_000, 3, 2))
    hard = gs.gumbel_softmax(KEY, rows, hard=True, axis=1).astype(jnp.int32)
    index = gs.gumbel_max(jax.random.key(8), rows, axis=-2)
    assert index.shape == (20_000, 2)
    for sample in (hard, jnp.moveaxis(chosen(index, 3), -1, 1)):
        for column in np.asarray(sample.sum(0)).T:
            assert column.sum() == 20_000
            assert follow(column, np.array([0.2, 0.3, 0.5]))


TEMPERATURES = jnp.array([1e-3, 1.0, 100.0, 1e6])


@dtypes
def test_the_index_is_the_same_at_every_temperature(dtype):
    """So its law is too. Read off the relaxed sample, it is not: a hot one has ties."""

    @jax.jit
    def draw(logits, temperatures):
        rows = jnp.broadcast_to(logits, (20_000, 5))
        index = gs.gumbel_max(KEY, rows)
        hard = lax.map(lambda t: gs.gumbel_softmax(KEY, rows, t, hard=True), temperatures)
        per_row = jnp.resize(temperatures, (20_000, 1))
        mixed = gs.gumbel_softmax(KEY, rows, per_row, hard=True)
        hottest = gs.gumbel_softmax(KEY, rows, temperatures[-1])
        return index, hard, mixed, hottest.argmax(-1)

    index, hard, mixed, of_relaxed = draw(jnp.asarray(SKEWED, dtype), TEMPERATURES)
    expected = np.eye(5)[np.asarray(index)]
    for sample in (*hard, mixed):
        np.testing.assert_array_equal(sample, expected)
    assert not np.array_equal(of_relaxed, index)


@pytest.mark.parametrize(
    ("num_classes", "dtype"),
    [(2, jnp.float32), (5, jnp.bfloat16), (1000, jnp.float16), (1001, jnp.bfloat16)],
)
def test_a_lookup_draws_the_index_of_gumbel_max(num_classes, dtype):
    logits = jax.random.normal(jax.random.key(1), (2000, num_classes), dtype)
    _, index = gs.gumbel_lookup(KEY, logits, jnp.zeros((num_classes, 1), dtype), 0.5)
    np.testing.assert_array_equal(index, gs.gumbel_max(KEY, logits))


# --- rare outcomes -----------------------------------------------------------------------------


def rare_classes(key, logits):
    return (gs.gumbel_softmax(key, logits, hard=True) == 1) & (logits < 0)


def rare_values(key, logits):
    return (gs.gumbel_sigmoid(key, logits, hard=True) == 1) != (logits > 0)


def rare_classes_of_textbook(key, logits):
    return textbook(key, logits) & (logits < 0)


RARE = {
    "of_two_classes": (rare_classes, [[0, 1], [1, 0]]),
    "of_five_classes": (rare_classes, [[1, 1, 0, 1, 1]]),
    "of_two_values": (rare_values, [[1], [-1]]),
}
"""A draw that is true where something rare came, and logits of it, to be scaled by log p."""

rare = pytest.mark.parametrize("name", RARE)


def rare_law(pattern, probability, dtype):
    """The probability of something rare, of the logits that ``pattern`` makes and dtype rounds."""
    logits = np.multiply(pattern, np.log(probability))
    if logits.size == 1:
        logits = np.array([0.0, -abs(logits[0])])
    return probabilities(logits, dtype)[logits < 0].sum()


def rare_count(draw, patterns, probability, draws, dtype):
    """Over all patterns, each with a key of its own."""
    return sum(
        counts_of(draw, np.multiply(pattern, np.log(probability)), draws, dtype, key).sum()
        for key, pattern in zip(jax.random.split(KEY, len(patterns)), patterns, strict=True)
    )


def is_accepted(count, draws, probability):
    return binomial_p_value(count, draws, probability) > FALSE_ALARM


def power(draws, probability, wrong):
    """How probably ``is_accepted`` refuses counts of another probability."""
    counts = np.arange(int(2 * draws * max(probability, wrong)) + 60)
    refused = ~is_accepted(counts, draws, probability)
    return stats.binom.pmf(counts, draws, wrong)[refused].sum()


def assert_rare(name, probability, draws, dtype, wrong):
    """That the law holds, and that ``wrong`` times its probability would have been noticed."""
    draw, patterns = RARE[name]
    expected = rare_law(patterns[0], probability, dtype)
    tried = draws * len(patterns)
    assert power(tried, expected, wrong * expected) > 0.99
    assert is_accepted(rare_count(draw, patterns, probability, draws, dtype), tried, expected)


@rare
@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_one_in_a_million_comes_from_half_precision_logits(dtype, name):
    assert_rare(name, 1e-6, 2 * 10**7, dtype, wrong=0.05)


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_from_noise_of_half_precision_it_would_not(dtype):
    patterns, draws = RARE["of_two_classes"][1][:1], 2 * 10**7
    count = rare_count(rare_classes_of_textbook, patterns, 1e-6, draws, dtype)
    assert not is_accepted(count, draws, rare_law(patterns[0], 1e-6, dtype))


@rare
def test_one_in_a_million_comes_from_float32_logits(name):
    draws = 16 * 10**7 // np.count_nonzero(RARE[name][1])
    assert_rare(name, 1e-6, draws, jnp.float32, wrong=0.45)


def law_of_textbook(probability):
    """Of a class that much rarer than another, with float32 noise from uniforms of 23 bits.

    The other class has ``G < log(probability) + G_rare`` where its uniform is below that of the
    rare one to the power ``1 / probability``: counted, for each of the 2**23 values.
    """
    uniform = np.arange(2**23) / 2**23
    uniform[0] = np.finfo(np.float32).tiny
    return np.ceil(uniform ** (1 / probability) * 2**23).mean() / 2**23


@pytest.mark.slow
@rare
@pytest.mark.parametrize(("probability", "wrong"), [(1e-6, 0.8), (1e-7, 0.52), (2e-8, 0.02)])
def test_outcomes_of_any_rarity_come_from_float32_logits(probability, wrong, name):
    """``wrong`` is what textbook noise makes of 1e-7 and 2e-8."""
    if probability < 1e-6:
        assert law_of_textbook(probability) / probability < wrong
    assert_rare(name, probability, 10**9, jnp.float32, wrong)


@pytest.mark.slow
def test_textbook_noise_draws_half_of_one_in_ten_million():
    patterns, draws = RARE["of_two_classes"][1], 10**9
    count = rare_count(rare_classes_of_textbook, patterns, 1e-7, draws, jnp.float32)
    assert not is_accepted(count, 2 * draws, rare_law(patterns[0], 1e-7, jnp.float32))
    assert is_accepted(count, 2 * draws, law_of_textbook(1e-7))


# --- binary ------------------------------------------------------------------------------------


@dtypes
def test_binary_samples_follow_the_sigmoid_of_the_rounded_logits(dtype):
    logits = [0.0, 0.3, -0.3, 2.0, -5.0, 100.0, -np.inf, np.inf]

    def ones(key, logits):
        return gs.gumbel_sigmoid(key, logits, 0.1, hard=True) == 1

    draws = 10**6
    counts = counts_of(ones, logits, draws, dtype)
    for count, law in zip(counts, special.expit(rounded(logits, dtype)), strict=True):
        assert binomial_p_value(count, draws, law) > FALSE_ALARM / len(logits)


@dtypes
def test_the_bit_is_the_same_at_every_temperature(dtype):
    logits = jnp.broadcast_to(jnp.asarray([0.3, -4.0, 9.0], dtype), (20_000, 3))
    draw = jax.jit(lambda t: gs.gumbel_sigmoid(KEY, logits, t, hard=True))
    expected = draw(1.0)
    for temperature in TEMPERATURES:
        np.testing.assert_array_equal(draw(temperature), expected)


# --- without replacement -----------------------------------------------------------------------

WEIGHTS = np.array([0.4, 0.3, 0.2, 0.1])


def ordered_pair(key, logits):
    """``[draws, 4, 4]``: of the two classes, the first is that of k = 1 with the same key."""
    first = gs.gumbel_top_k(key, logits, 1, hard=True) == 1
    both = gs.gumbel_top_k(key, logits, 2, hard=True) == 1
    return first[:, :, None] & (both & ~first)[:, None, :]


@dtypes
def test_pairs_and_inclusions_follow_the_plackett_luce_law(dtype):
    draws = 10**6
    counts = counts_of(ordered_pair, np.log(WEIGHTS), draws, dtype)
    assert counts.sum() == draws and np.all(np.diag(counts) == 0)
    p = probabilities(np.log(WEIGHTS), dtype)
    law = np.outer(p / (1 - p), p)
    np.fill_diagonal(law, 0)
    assert follow(counts.ravel(), law.ravel())
    included = counts.sum(0) + counts.sum(1)
    assert np.all(binomial_p_value(included, draws, law.sum(0) + law.sum(1)) > FALSE_ALARM / 4)


def test_the_draws_tell_it_from_other_laws_without_replacement():
    draws = 10**6
    counts = counts_of(ordered_pair, np.log(WEIGHTS), draws)
    until_they_differ = np.outer(WEIGHTS, WEIGHTS)
    np.fill_diagonal(until_they_differ, 0)
    assert not follow(counts.ravel(), until_they_differ.ravel() / until_they_differ.sum())
    included = counts.sum(0) + counts.sum(1)
    assert np.all(binomial_p_value(included, draws, 2 * WEIGHTS) < FALSE_ALARM)
