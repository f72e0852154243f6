"""KL divergence and entropy against enumeration in float64 NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import gs_modules as gs

INF = np.inf


def probabilities(logits, where=True, axis=-1):
    """float64; equal ``+inf`` logits share the mass, a row without a class is all zeros."""
    logits = np.where(where, np.asarray(logits, np.float64), -INF)
    largest = logits.max(axis, keepdims=True)
    weights = np.where(np.isinf(largest), logits == INF, 1.0)
    with np.errstate(invalid="ignore"):
        weights = np.where(np.isinf(largest), weights, np.exp(logits - largest))
    return weights / np.maximum(weights.sum(axis, keepdims=True), 1e-300)


def enumerated_kl(logits, prior_logits, where=True, axis=-1):
    q, p = probabilities(logits, where, axis), probabilities(prior_logits, where, axis)
    return special.rel_entr(q, p).sum(axis)  # 0 where q is 0, infinity where only p is


ROWS = np.array(
    [
        [0.5, -1.0, 0.0, 2.0],
        [0.0, 0.0, 0.0, 0.0],
        [-INF, 0.0, 1.0, -INF],
        [-INF, -INF, -INF, 3.0],
        [INF, 0.0, INF, -INF],
        [1e4, 0.0, -1e4, 1e4],
        [-90.0, -150.0, 0.0, -INF],
        [-INF, -INF, -INF, -INF],
    ],
    np.float32,
)
LARGE = np.array([[3e38, -3e38, 3e38], [-3e38, -INF, -3e38]], np.float32)
WHERE = np.array([True, True, False, True])
PRIORS = {"uniform": None, "learned": np.array([0.3, -0.5, 1.0, 0.0], np.float32)}

priors = pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS.keys())
masks = pytest.mark.parametrize("where", [None, WHERE], ids=["all", "masked"])


@priors
@masks
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_kl_is_the_enumerated_sum(dtype, prior, where):
    logits = jnp.asarray(ROWS, dtype)
    found = gs.categorical_kl(logits, prior, where=where)
    mask = True if where is None else where
    expected = enumerated_kl(logits, np.zeros(4) if prior is None else prior, mask)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@masks
def test_entropy_is_the_enumerated_sum(where):
    found = gs.categorical_entropy(ROWS, where=where)
    q = probabilities(ROWS, True if where is None else where)
    np.testing.assert_allclose(found, special.entr(q).sum(-1), rtol=1e-5, atol=1e-6)


def test_closed_forms():
    np.testing.assert_allclose(gs.categorical_entropy(jnp.zeros((2, 8))), np.log(8), rtol=1e-6)
    np.testing.assert_allclose(gs.categorical_kl(jnp.array([0.0, -INF])), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(gs.categorical_kl(jnp.full((3, 5), 1e9)), 0, atol=1e-6)
    np.testing.assert_allclose(gs.categorical_kl(LARGE), np.log([1.5, 1.5]), rtol=1e-6)
    np.testing.assert_allclose(gs.categorical_entropy(LARGE), np.log([2, 2]), rtol=1e-6)
    rows = jnp.asarray(ROWS[:2])
    total = gs.categorical_kl(rows) + gs.categorical_entropy(rows)
    np.testing.assert_allclose(total, np.log(4), rtol=1e-6)
    bernoulli = gs.categorical_entropy(jnp.array([special.logit(0.3), 0.0]))
    np.testing.assert_allclose(bernoulli, stats.bernoulli(0.3).entropy(), rtol=1e-6)


def test_a_class_that_only_the_prior_excludes_costs_infinity_in_its_own_row():
    prior = jnp.array([0.0, -INF, 0.0])
    rows = jnp.array([[0.0, -20.0, 0.0], [0.0, -INF, 1.0], [0.0, -200.0, 0.0]])
    kl = gs.categorical_kl(rows, prior)
    assert kl[0] == INF
    # e**-200 is 0 in float32: a class of no mass, not 0 * inf
    np.testing.assert_allclose(
        kl[1:], enumerated_kl([[0, -INF, 1], [0, -INF, 0]], prior), atol=1e-6
    )
    gradient = jax.grad(lambda x: gs.categorical_kl(x, prior)[1:].sum())(rows)
    assert np.all(np.isfinite(gradient[1:]))


@pytest.mark.parametrize("objective", [gs.categorical_kl, gs.categorical_entropy])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_other_axes_are_the_last_axis_moved(objective, axis):
    logits = jax.random.normal(jax.random.key(0), (3, 4, 5))
    where = jax.random.bernoulli(jax.random.key(1), 0.7, (3, 4, 5))
    found = objective(logits, axis=axis, where=where)
    expected = objective(jnp.moveaxis(logits, axis, -1), where=jnp.moveaxis(where, axis, -1))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@priors
@masks
def test_gradients_are_finite_everywhere_and_those_of_float64_where_smooth(prior, where):
    prior = jnp.zeros(4) if prior is None else jnp.asarray(prior)

    def total(logits, prior):
        kl = gs.categorical_kl(logits, prior, where=where)
        return kl.sum() + 0.5 * gs.categorical_entropy(logits, where=where).sum()

    found = jax.jit(jax.grad(total, (0, 1)))(jnp.asarray(ROWS), prior)
    excluded = np.isneginf(ROWS) if where is None else np.isneginf(ROWS) | ~where
    assert np.all(np.isfinite(found[0])) and np.all(np.isfinite(found[1]))
    assert np.all(found[0][excluded] == 0)

    mask = True if where is None else where

    def in_float64(logits, prior):
        entropy = special.entr(probabilities(logits, mask)).sum()
        return enumerated_kl(logits, prior, mask).sum() + 0.5 * entropy

    smooth = ROWS[:2].astype(np.float64)
    step = 1e-5
    for index in itertools.product(range(2), range(4)):
        change = np.zeros_like(smooth)
        change[index] = step
        up, down = in_float64(smooth + change, prior), in_float64(smooth - change, prior)
        np.testing.assert_allclose(found[0][index], (up - down) / (2 * step), atol=2e-6)


def test_the_gradient_to_a_learned_prior_is_its_probabilities_minus_the_posterior():
    logits, prior = jnp.asarray(ROWS[:4]), jnp.array([0.3, -0.5, 1.0, 0.0])
    gradient = jax.grad(lambda prior: gs.categorical_kl(logits, prior).sum())(prior)
    expected = (probabilities(prior) - probabilities(logits)).sum(0)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def test_a_nan_row_is_nan_and_no_other():
    rows = jnp.asarray(ROWS[:3]).at[1, 0].set(jnp.nan)
    for objective in (gs.categorical_kl, gs.categorical_entropy):
        found, clean = objective(rows), objective(jnp.asarray(ROWS[:3]))
        assert np.isnan(found[1])
        np.testing.assert_array_equal(found[::2], clean[::2])


def test_float64_logits_give_float64():
    with jax.enable_x64(True):
        logits = jnp.asarray(ROWS[:2], jnp.float64)
        kl = gs.categorical_kl(logits, jnp.zeros(4, jnp.float32))
        assert kl.dtype == gs.categorical_entropy(logits).dtype == jnp.float64
        np.testing.assert_allclose(kl, enumerated_kl(logits, np.zeros(4)), rtol=1e-13, atol=1e-15)


def test_the_gradient_of_an_infinite_kl_is_finite_and_points_away():
    """Towards less mass on the class that the prior excludes, also where it does so by 3e38."""
    logits = jnp.array([[0.0, 1.0, -1.0]])
    for prior in ([0.0, -INF, 0.0], [3e38, -3e38, 3e38]):
        kl, gradient = jax.value_and_grad(
            lambda x, prior=prior: gs.categorical_kl(x, jnp.asarray(prior)).sum()
        )(logits)
        assert kl == INF and np.all(np.isfinite(gradient))
        assert gradient[0, 1] > 0 and np.all(gradient[0, [0, 2]] < 0)


@masks
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_log_prob_is_the_logarithm_of_the_enumerated_probability(dtype, where):
    logits = jnp.asarray(ROWS[:7], dtype)
    mask = True if where is None else where
    with np.errstate(divide="ignore"):
        expected = np.log(probabilities(logits, mask))
    for index in range(4):
        found = gs.categorical_log_prob(np.full(7, index), logits, where=where)
        assert found.dtype == jnp.float32
        is_known = expected[:, index] > -80  # a smaller probability underflows in the oracle
        np.testing.assert_allclose(found[is_known], expected[is_known, index], rtol=1e-5, atol=1e-6)
        is_excluded = np.isneginf(ROWS[:7, index]) | (where is not None and not WHERE[index])
        np.testing.assert_array_equal(found[is_excluded], -INF)


def test_log_prob_of_bad_rows():
    logits = jnp.array([[-INF, -INF], [jnp.nan, 0.0], [0.0, 0.0]])
    index = gs.gumbel_max(jax.random.key(0), logits)
    log_prob, pull_back = jax.vjp(lambda x: gs.categorical_log_prob(index, x), logits)
    assert log_prob[0] == 0 and np.isnan(log_prob[1])
    np.testing.assert_allclose(log_prob[2], -np.log(2), rtol=1e-6)
    gradient = pull_back(jnp.ones(3))[0]
    np.testing.assert_array_equal(gradient[0], 0)
    assert np.all(np.isfinite(gradient[2]))


def test_leave_one_out_is_the_mean_loss_and_differentiates_the_loss_itself():
    losses, log_probs = jnp.array([[1.0, 5.0], [2.0, 6.0], [6.0, 7.0]]), jnp.zeros((3, 2))
    np.testing.assert_allclose(gs.leave_one_out_reinforce(losses, log_probs), [3.0, 6.0])

    def total(losses, log_probs):
        return gs.leave_one_out_reinforce(losses, log_probs).sum()

    of_losses, of_log_probs = jax.grad(total, (0, 1))(losses, log_probs)
    np.testing.assert_allclose(of_losses, 1 / 3, rtol=1e-6)
    others = (losses.sum(0, keepdims=True) - losses) / 2
    np.testing.assert_allclose(of_log_probs, (losses - others) / 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("losses", "log_probs", "error", "match"),
    [
        (jnp.zeros(1), jnp.zeros(1), ValueError, "two samples"),
        (jnp.float32(0), jnp.float32(0), ValueError, "two samples"),
        (jnp.zeros(2), jnp.zeros(3), ValueError, r"one shape.*\(2,\).*\(3,\)"),
        (jnp.zeros(2, int), jnp.zeros(2), TypeError, "losses"),
        (jnp.zeros(2), jnp.zeros(2, int), TypeError, "log_probs"),
    ],
)
def test_leave_one_out_refuses_by_name(losses, log_probs, error, match):
    with pytest.raises(error, match=match):
        gs.leave_one_out_reinforce(losses, log_probs)


def test_log_prob_of_an_excluded_class_has_no_gradient_and_of_no_class_is_refused():
    logits = jnp.array([-INF, 0.0])
    log_prob, gradient = jax.value_and_grad(lambda x: gs.categorical_log_prob(jnp.array(0), x))(
        logits
    )
    assert log_prob == -INF
    np.testing.assert_array_equal(gradient, 0)
    for index in (2, -2):
        with pytest.raises(ValueError, match=r"index must be in 0 \.\. 1"):
            gs.categorical_log_prob(jnp.array(index), logits)
        assert np.isnan(jax.jit(gs.categorical_log_prob)(index, logits))
    with jax.enable_x64(True):
        assert np.isnan(jax.jit(gs.categorical_log_prob)(jnp.int64(2**32 + 1), logits))


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.uint32])
def test_log_prob_of_an_index_of_any_integer_dtype(dtype):
    log_prob = gs.categorical_log_prob(jnp.array([0, 9], dtype), jnp.zeros((2, 10)))
    np.testing.assert_allclose(log_prob, -np.log(10), rtol=1e-6)
