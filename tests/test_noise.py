"""Gumbel noise against its law: the body by Kolmogorov-Smirnov, both tails by counting and by bits.

Statistical tests have fixed keys and fail by chance with a probability of 1e-6.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gs_modules import _threefry, gumbel_noise

FALSE_ALARM = 1e-6
HALF = [jnp.bfloat16, jnp.float16]


@pytest.fixture(scope="module")
def ten_million():
    return np.asarray(gumbel_noise(jax.random.key(0), 10_000_000))


def test_float32_noise_follows_the_gumbel_law(ten_million):
    assert stats.kstest(ten_million[:1_000_000], "gumbel_r").pvalue > FALSE_ALARM


def test_float64_noise_follows_the_gumbel_law():
    with jax.enable_x64(True):
        noise = gumbel_noise(jax.random.key(1), (300_000,), jnp.float64)
    assert noise.dtype == np.float64
    assert stats.kstest(np.asarray(noise), "gumbel_r").pvalue > FALSE_ALARM


@pytest.mark.parametrize("tail", ["right", "left"])
@pytest.mark.parametrize("probability", [0.3, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
def test_tails_have_the_mass_of_the_law(ten_million, tail, probability):
    if tail == "right":
        count = np.sum(ten_million > -np.log(-np.log1p(-probability)))
    else:
        count = np.sum(ten_million < -np.log(-np.log(probability)))
    result = stats.binomtest(int(count), ten_million.size, probability)
    assert result.pvalue > FALSE_ALARM


def test_the_two_numbers_of_a_block_are_independent(ten_million):
    """Counted in 32 x 32 cells of equal probability, tails included."""
    cells = np.minimum(np.exp(-np.exp(-ten_million.astype(np.float64))) * 32, 31).astype(int)
    first, second = np.split(cells, 2)
    counts = np.bincount(32 * first + second, minlength=32**2)
    assert stats.chisquare(counts).pvalue > FALSE_ALARM


@pytest.mark.parametrize(
    ("bits", "dtype", "is_compiled"),
    [(32, jnp.float32, True), (32, jnp.float32, False), (64, jnp.float64, False)],
)
def test_every_bit_pattern_gives_the_finite_quantile_of_its_middle(
    monkeypatch, bits, dtype, is_compiled
):
    """The tails, exactly: pattern ``b`` stands for the uniform ``(b + 1/2) / 2**bits``."""
    half = 2 ** (bits - 1)
    ends = [0, 1, 2, 3, 7, 100, 10**4, 10**8, half // 2]
    patterns = sorted({*ends, *(half + i for i in range(-2, 3)), *(2 * half - 1 - i for i in ends)})
    unsigned = np.dtype(f"uint{bits}")
    with jax.enable_x64(bits == 64), jax.disable_jit(not is_compiled):
        given = np.array(patterns, unsigned)
        both = np.array_split(given, 2) if bits == 32 else (given >> 32, given & (2**32 - 1))
        first, second = (jnp.asarray(words, jnp.uint32) for words in both)
        monkeypatch.setattr(_threefry, "words", lambda key, count: (first[count], second[count]))
        noise = np.asarray(gumbel_noise(jax.random.key(0), len(patterns), dtype))
    # 1 - U in extended precision from the integer 2**bits - 1 - b: neither end loses a bit.
    wide = np.longdouble
    upper = (np.array([2 * half - 1 - b for b in patterns], wide) + wide(0.5)) / wide(2) ** bits
    lower = (np.array(patterns, wide) + wide(0.5)) / wide(2) ** bits
    exponential = np.where(lower < 0.5, -np.log1p(-np.minimum(lower, 0.5)), -np.log(upper))
    expected = -np.log(exponential)
    assert noise.dtype == dtype
    assert np.all(np.isfinite(noise))
    epsilon = np.finfo(noise.dtype).eps
    np.testing.assert_allclose(noise, expected, rtol=4 * epsilon, atol=4 * epsilon)
    assert noise.max() > np.log(2) * bits and noise.min() < -np.log(np.log(2) * bits)


@pytest.mark.parametrize("dtype", HALF)
def test_half_noise_is_the_float32_noise_rounded(dtype):
    key = jax.random.key(2)
    rounded = gumbel_noise(key, (1000,)).astype(dtype)
    noise = gumbel_noise(key, (1000,), dtype)
    assert noise.dtype == dtype
    np.testing.assert_array_equal(noise, rounded)


def test_typed_and_old_style_keys_and_vmap_over_keys_agree():
    keys = jax.random.split(jax.random.key(3), 3)
    typed = [gumbel_noise(key, (5,)) for key in keys]
    old_style = [gumbel_noise(jax.random.key_data(key), (5,)) for key in keys]
    np.testing.assert_array_equal(typed, old_style)
    np.testing.assert_array_equal(typed, jax.vmap(lambda key: gumbel_noise(key, (5,)))(keys))
    assert len(np.unique(typed)) == 15


@pytest.mark.parametrize("shape", [(), 3, (3,), [2, 3], (0, 2), np.int64(3)])
def test_shape_is_an_integer_or_a_sequence(shape):
    assert gumbel_noise(jax.random.key(0), shape).shape == np.zeros(shape).shape


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_, jnp.complex64, "float33"])
def test_dtypes_that_are_not_floating_are_refused(dtype):
    with pytest.raises(TypeError, match="float"):
        gumbel_noise(jax.random.key(0), (2,), dtype)


@pytest.mark.parametrize(
    ("shape", "error"),
    [(-1, ValueError), ((2, -1), ValueError), (2.5, TypeError), ("a", TypeError)],
)
def test_impossible_shapes_are_refused_by_name(shape, error):
    with pytest.raises(error, match="shape must"):
        gumbel_noise(jax.random.key(0), shape)
