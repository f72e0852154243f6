"""Binary Concrete samples against NumPy in float64, and what is promised of them by element."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import gs_modules as gs
from gs_modules._noise import logistic_noise_like

KEY = jax.random.key(4)
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
LARGEST = 3.4028235e38

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)


@functools.cache
def compiled(dtype):
    @jax.jit
    def everything(logits, temperature, where, cotangent):
        logits, cotangent = logits.astype(dtype), cotangent.astype(dtype)
        draw = functools.partial(gs.gumbel_sigmoid, KEY, where=where)
        hard, pull_back = jax.vjp(functools.partial(draw, hard=True), logits, temperature)
        tangents = (cotangent, jnp.ones_like(temperature))
        soft, push = jax.jvp(draw, (logits, temperature), tangents)
        return hard, soft, *pull_back(cotangent), push

    def run(logits, temperature=0.5, where=True, cotangent=1.0):
        def array(value, as_type=jnp.float32):
            return jnp.asarray(np.broadcast_to(value, np.shape(logits)), as_type)

        given = (array(logits), array(temperature), array(where, bool), array(cotangent))
        return [np.asarray(result, np.float32) for result in everything(*given)]

    return run


def test_values_and_derivatives_are_those_of_the_formula():
    generator = np.random.default_rng(0)
    logits, weights = generator.normal(size=(2, 3, 4)) * 3
    temperature = generator.uniform(0.3, 2.0, (3, 1))
    with jax.enable_x64(True):
        noise = np.asarray(logistic_noise_like(KEY, jnp.zeros((3, 4), jnp.float64)))

        @jax.jit
        def library(logits, temperature):
            draw = functools.partial(gs.gumbel_sigmoid, KEY, hard=True)
            hard, pull_back = jax.vjp(draw, logits, temperature)
            soft = gs.gumbel_sigmoid(KEY, logits, temperature)
            return hard, soft, pull_back(jnp.asarray(weights))

        hard, soft, (to_logits, to_temperature) = library(
            jnp.asarray(logits), jnp.asarray(temperature)
        )
    score = logits + noise
    y = special.expit(score / temperature)
    np.testing.assert_array_equal(hard, score > 0)
    np.testing.assert_allclose(soft, y, rtol=1e-12)
    slope = weights * y * (1 - y)
    np.testing.assert_allclose(to_logits, slope / temperature, rtol=1e-9)
    by_temperature = (-slope * score / temperature**2).sum(-1, keepdims=True)
    np.testing.assert_allclose(to_temperature, by_temperature, rtol=1e-7)


def test_the_hessian_is_that_of_the_formula():
    with jax.enable_x64(True):
        noise = logistic_noise_like(KEY, jnp.zeros((), jnp.float64))

        def library(x):
            return gs.gumbel_sigmoid(KEY, x[0], x[1], hard=True)

        def formula(x):
            return jax.nn.sigmoid((x[0] + noise) / x[1])

        x = jnp.array([0.3, 0.6], jnp.float64)
        found, expected = (jax.jit(jax.hessian(f))(x) for f in (library, formula))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_logistic_noise_follows_its_law_in_both_tails():
    noise = np.asarray(logistic_noise_like(KEY, jnp.zeros(2_000_000)), np.float64)
    assert stats.kstest(noise[:500_000], "logistic").pvalue > 1e-6
    for probability in (1e-2, 1e-4, 1e-5):
        for tail in (noise, -noise):
            count = int(np.sum(tail > special.logit(1 - probability)))
            assert stats.binomtest(count, noise.size, probability).pvalue > 1e-6


@dtypes
def test_extreme_logits_and_temperatures_stay_finite(dtype):
    largest = float(jnp.finfo(dtype).max)
    logits = np.array([np.inf, -np.inf, largest, -largest, min(6e4, largest), 0.0, 1e-7, -1.0])
    for temperature in (1e-38, 1e-20, 1e-3, 1.0, 1e38, np.inf):
        hard, soft, to_logits, to_temperature, push = compiled(dtype)(logits, temperature)
        np.testing.assert_array_equal(hard[:5], [1, 0, 1, 0, 1])
        assert np.all((hard == 0) | (hard == 1)) and np.all((soft >= 0) & (soft <= 1))
        np.testing.assert_array_equal(soft[:2], [1, 0])
        np.testing.assert_array_equal(to_logits[:2], 0)
        assert np.all(np.isfinite(to_temperature))
        if temperature >= 1e-3 or dtype != jnp.float16:
            assert np.all(np.isfinite(to_logits)) and np.all(np.isfinite(push))


@dtypes
def test_an_element_is_masked_or_bad_by_itself(dtype):
    run = compiled(dtype)
    logits, temperature = np.linspace(-1, 1, 8), np.full(8, 0.5)
    clean = run(logits, temperature)
    where = np.ones(8, bool)
    logits[1], where[1] = np.nan, False
    logits[2], where[2] = np.inf, False
    logits[4] = np.nan
    temperature[5] = 0.0
    cotangent = np.ones(8)
    cotangent[1:3] = np.nan, np.inf
    found = run(logits, temperature, where, cotangent)
    for result, value in zip(found, clean, strict=True):
        np.testing.assert_array_equal(result[[0, 3, 6, 7]], value[[0, 3, 6, 7]])
        np.testing.assert_array_equal(result[1:3], 0)
    assert np.all(np.isnan(found[0][4:6])) and np.all(np.isnan(found[1][4:6]))


def test_it_is_the_two_class_sample_in_law():
    """Kolmogorov-Smirnov at 1e-6 against ``gumbel_softmax`` over (logit, 0)."""
    pairs = jnp.broadcast_to(jnp.array([0.3, 0.0]), (100_000, 2))
    of_two = np.asarray(gs.gumbel_softmax(jax.random.key(5), pairs, 0.7))[:, 0]
    binary = np.asarray(gs.gumbel_sigmoid(KEY, pairs[:, 0], 0.7))
    assert stats.ks_2samp(of_two, binary).pvalue > 1e-6


def test_the_result_has_the_dtype_asked_for_and_no_temperature_promotes_it():
    for given in DTYPES:
        logits = jnp.zeros(3, given)
        for temperature in (0.5, np.float64(0.5), jnp.float32(0.5), np.array([0.5, 1.0, 2.0])):
            assert gs.gumbel_sigmoid(KEY, logits, temperature).dtype == given
        assert gs.gumbel_sigmoid(KEY, logits, dtype=jnp.bfloat16, hard=True).dtype == jnp.bfloat16


@pytest.mark.parametrize("hard", [False, True])
def test_the_backward_pass_keeps_the_relaxed_sample_alone(hard):
    logits = jnp.zeros((64, 32), jnp.bfloat16)
    draw = functools.partial(gs.gumbel_sigmoid, KEY, hard=hard)
    _, backward = jax.vjp(draw, logits, jnp.float32(0.5))
    kept = [leaf.nbytes for leaf in jax.tree.leaves(backward) if isinstance(leaf, jax.Array)]
    assert sum(kept) <= 4 * logits.size + 64
