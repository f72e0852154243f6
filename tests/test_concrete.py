"""The Concrete distribution in log space: samples, densities that integrate to one, and KL."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

import gs_modules as gs

KEY = jax.random.key(6)
LOGITS = np.random.default_rng(0).normal(size=(5, 4))
WHERE = np.array([True, True, False, True])


def test_log_samples_are_the_logarithms_of_the_samples_and_of_their_derivatives():
    with jax.enable_x64(True):
        logits, weights = jnp.asarray(LOGITS), jnp.asarray(LOGITS[::-1].copy())

        @jax.jit
        def both(logits, temperature):
            def log_softmax(x, t):
                return jnp.log(gs.gumbel_softmax(KEY, x, t))

            def log_odds(x, t):
                sample = gs.gumbel_sigmoid(KEY, x, t)
                return jnp.log(sample) - jnp.log1p(-sample)

            pairs = [
                (functools.partial(gs.gumbel_log_softmax, KEY), log_softmax),
                (functools.partial(gs.gumbel_log_odds, KEY), log_odds),
            ]
            results = []
            for function in (function for pair in pairs for function in pair):
                value, pull_back = jax.vjp(function, logits, temperature)
                results.append((value, *pull_back(weights)))
            return results

        log_softmax, log_of_softmax, odds, odds_of_sigmoid = both(logits, jnp.float64(0.7))
    for found, expected in zip((log_softmax, odds), (log_of_softmax, odds_of_sigmoid), strict=True):
        for result, value in zip(found, expected, strict=True):
            np.testing.assert_allclose(result, value, rtol=1e-9, atol=1e-11)


def concrete_density(y, logits, temperature):
    """Of the weights, as Maddison et al. write it (equation 10)."""
    n, alpha = len(logits), np.exp(logits)
    terms = alpha * y ** (-temperature - 1)
    total = np.sum(alpha * y**-temperature)
    return special.factorial(n - 1) * temperature ** (n - 1) * np.prod(terms) / total**n


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_densities_are_those_of_the_weights_times_their_product(temperature):
    """The density of ``x = log y`` is that of ``y`` times the product of ``y``."""
    weights = np.random.default_rng(1).dirichlet(np.ones(4), size=5)
    with jax.enable_x64(True):
        found = gs.relaxed_categorical_log_prob(np.log(weights), LOGITS, temperature)
        binary = gs.relaxed_bernoulli_log_prob(special.logit(weights), LOGITS, temperature)
    expected = [
        np.log(concrete_density(y, x, temperature)) + np.log(y).sum()
        for y, x in zip(weights, LOGITS, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    for z, x, log_prob in zip(
        special.logit(weights).flat, LOGITS.flat, np.ravel(binary), strict=True
    ):
        y = np.array([special.expit(z), special.expit(-z)])
        density = concrete_density(y, np.array([x, 0.0]), temperature)
        np.testing.assert_allclose(log_prob, np.log(density * y.prod()), rtol=1e-10)


@pytest.mark.parametrize("temperature", [0.4, 1.0])
def test_the_density_of_a_pair_integrates_to_one_and_is_that_of_its_samples(temperature):
    logits = np.array([0.5, -0.3])

    def density(z):  # z = x0 - x1, of which x = log_softmax((z, 0)); dx0 = sigmoid(-z) dz
        log_sample = special.log_softmax([z, 0.0])
        return np.exp(gs.relaxed_categorical_log_prob(log_sample, logits, temperature).item())

    with jax.enable_x64(True):
        grid = np.linspace(-120, 120, 4001)
        log_samples = special.log_softmax(np.stack([grid, 0 * grid], -1), -1)
        rows = np.broadcast_to(logits, log_samples.shape)
        densities = np.exp(gs.relaxed_categorical_log_prob(log_samples, rows, temperature))
        cumulative = integrate.cumulative_simpson(densities, x=grid, initial=0)
        assert abs(cumulative[-1] - 1) < 1e-5
        np.testing.assert_allclose(density(0.7), np.interp(0.7, grid, densities), rtol=1e-3)
    drawn = gs.gumbel_log_softmax(KEY, jnp.broadcast_to(logits, (100_000, 2)), temperature)
    odds = np.asarray(drawn[:, 0] - drawn[:, 1])
    result = stats.kstest(odds, lambda z: np.interp(z, grid, cumulative))
    assert result.pvalue > 1e-6


def test_masks_leave_classes_out_of_sample_density_and_gradient():
    def total(logits, where, fewer=slice(None)):
        logits = logits[:, fewer]
        log_sample = gs.gumbel_log_softmax(KEY, logits, 0.5, where=where)
        return log_sample, gs.relaxed_categorical_log_prob(log_sample, logits, 0.5, where=where)

    logits = jnp.asarray(LOGITS, jnp.float32)
    for hidden in (0.0, np.nan, np.inf, -np.inf):
        given = jnp.where(WHERE, logits, hidden)
        log_sample, log_prob = total(given, WHERE)
        assert np.all(np.isneginf(log_sample[:, ~WHERE]))
        kept = np.flatnonzero(WHERE)
        fewer = gs.relaxed_categorical_log_prob(log_sample[:, kept], logits[:, kept], 0.5)
        np.testing.assert_allclose(log_prob, fewer, rtol=1e-5)
        gradient = jax.grad(lambda x: total(x, WHERE)[1].sum())(given)
        assert np.all(np.isfinite(gradient)) and np.all(gradient[:, ~WHERE] == 0)
    everything_hidden = total(logits, np.zeros(4, bool))[1]
    np.testing.assert_array_equal(everything_hidden, 0)


@pytest.mark.parametrize("temperature", [1e-15, 1e-3, 0.01, 1.0, 1e3])
def test_densities_and_gradients_stay_finite_in_the_cold(temperature):
    @jax.jit
    def everything(logits, temperature):
        def categorical(logits, temperature):
            x = gs.gumbel_log_softmax(KEY, logits, temperature)
            return gs.relaxed_categorical_log_prob(x, logits, temperature).sum()

        def binary(logits, temperature):
            z = gs.gumbel_log_odds(KEY, logits, temperature)
            return gs.relaxed_bernoulli_log_prob(z, logits, temperature).sum()

        return [jax.value_and_grad(f, (0, 1))(logits, temperature) for f in (categorical, binary)]

    logits = jnp.asarray(100 * LOGITS, jnp.float32)
    for leaf in jax.tree.leaves(everything(logits, jnp.float32(temperature))):
        assert np.all(np.isfinite(leaf))


def test_the_kl_is_the_difference_of_densities_and_its_mean_that_of_the_integral():
    """5 standard errors: a false alarm in 2e6."""
    posterior, prior = np.array([1.0, -0.5]), np.array([0.2, 0.1])
    rows = jnp.broadcast_to(jnp.asarray(posterior, jnp.float32), (200_000, 2))
    log_sample = gs.gumbel_log_softmax(KEY, rows, 0.5)
    found = np.asarray(
        gs.relaxed_categorical_kl(log_sample, rows, 0.5, prior.astype(np.float32), 0.8), np.float64
    )
    with jax.enable_x64(True):
        grid = np.linspace(-150, 150, 20_001)
        x = special.log_softmax(np.stack([grid, 0 * grid], -1), -1)
        log_q, log_p = (
            np.asarray(gs.relaxed_categorical_log_prob(x, np.broadcast_to(logits, x.shape), t))
            for logits, t in ((posterior, 0.5), (prior, 0.8))
        )
    expected = integrate.simpson(np.exp(log_q) * (log_q - log_p), x=grid)
    assert abs(found.mean() - expected) < 5 * found.std() / np.sqrt(len(found))
    uniform = gs.relaxed_categorical_kl(log_sample, rows, 0.5)
    explicit = gs.relaxed_categorical_kl(log_sample, rows, 0.5, jnp.zeros(2), 0.5)
    np.testing.assert_array_equal(uniform, explicit)


def test_half_logits_are_computed_in_float32_and_a_bad_temperature_is_nan():
    logits = jnp.asarray(LOGITS, jnp.bfloat16)
    log_sample = gs.gumbel_log_softmax(KEY, logits, 0.5)
    assert log_sample.dtype == jnp.float32
    kl = gs.relaxed_categorical_kl(log_sample, logits, 0.5, jnp.zeros(4, jnp.float32))
    assert kl.dtype == jnp.float32 and np.all(np.isfinite(kl))
    assert gs.gumbel_log_odds(KEY, logits, 0.5).dtype == jnp.float32
    traced = jax.jit(lambda t: gs.relaxed_categorical_log_prob(log_sample, logits, t))
    assert np.all(np.isnan(traced(-1.0)))


@pytest.mark.parametrize("temperature", [1e-3, 0.5, 1.0])
def test_infinite_logits_and_classes_without_mass_give_no_nan(temperature):
    rows = np.array(
        [
            [-np.inf, 0.0, 1.0],
            [-np.inf, -np.inf, 0.0],
            [-np.inf, -np.inf, -np.inf],
            [np.inf, 0.0, -1.0],
            [np.inf, np.inf, 0.0],
        ],
        np.float32,
    )

    @jax.jit
    def everything(logits, temperature):
        def categorical(logits, temperature):
            x = gs.gumbel_log_softmax(KEY, logits, temperature)
            log_prob = gs.relaxed_categorical_log_prob(x, logits, temperature)
            return log_prob + gs.relaxed_categorical_kl(x, logits, temperature)

        def binary(logits, temperature):
            z = gs.gumbel_log_odds(KEY, logits, temperature)
            return gs.relaxed_bernoulli_log_prob(z, logits, temperature)

        values = categorical(logits, temperature), binary(logits, temperature)
        gradients = [
            jax.grad(lambda x, t, f=f: f(x, t).sum(), (0, 1))(logits, temperature)
            for f in (categorical, binary)
        ]
        return values, gradients

    values, gradients = everything(rows, jnp.float32(temperature))
    for leaf in jax.tree.leaves((values, gradients)):
        assert np.all(np.isfinite(leaf))
    # at most one class, or one infinitely above the others: certain, so nothing to pay
    np.testing.assert_array_equal(values[0][1:4], 0)
    np.testing.assert_array_equal(values[1][np.isinf(rows)], 0)
    np.testing.assert_array_equal(gradients[0][0][1:4], 0)


def test_a_certain_log_sample_has_no_derivative_to_the_coldest_temperature():
    def only(temperature):
        return gs.gumbel_log_softmax(KEY, jnp.array([-np.inf, -np.inf, 0.0]), temperature)[2]

    assert jax.grad(only)(jnp.float32(1e-38)) == 0


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan])
def test_a_wrong_traced_temperature_is_not_hidden_from_its_derivative(temperature):
    @jax.jit
    def derivatives(temperature):
        logits = jnp.zeros(3)
        return [
            jax.grad(lambda t, f=f: f(t).sum())(temperature)
            for f in (
                lambda t: gs.gumbel_log_softmax(KEY, logits, t),
                lambda t: gs.gumbel_log_odds(KEY, logits, t),
                lambda t: gs.relaxed_categorical_log_prob(logits, logits, t),
                lambda t: gs.relaxed_bernoulli_log_prob(logits, logits, t),
            )
        ]

    assert np.all(np.isnan(derivatives(jnp.float32(temperature))))
