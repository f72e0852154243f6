"""k-hot samples: their relaxation against NumPy in float64, their bits, extremes and bad rows.

The law is in ``test_law.py``; what holds for k = 1 as for every sample is in ``test_relaxed.py``.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import central_differences

import gs_modules as gs

KEY = jax.random.key(3)
LOGITS = np.random.default_rng(0).normal(size=(4, 6))
WEIGHTS = np.random.default_rng(1).normal(size=(4, 6))
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)


def successive_softmax(scores, temperature, k, where=True):
    """The relaxation of Xie and Ermon, as they write it."""
    scores, total = np.where(where, scores, -np.inf), 0
    for _ in range(k):
        weights = np.exp((scores - scores.max(-1, keepdims=True)) / temperature)
        weights = weights / weights.sum(-1, keepdims=True)
        total = total + weights
        scores = scores + np.log1p(-weights)
    return total


@pytest.mark.parametrize("k", [1, 2, 3, 6])
@pytest.mark.parametrize("where", [None, np.array([True] * 4 + [False] * 2)], ids=["all", "masked"])
def test_values_and_derivatives_are_those_of_the_successive_softmax(k, where):
    if where is not None and k > 4:
        pytest.skip("fewer than k classes left: another test")
    mask = True if where is None else where
    per_row = np.array([[0.3], [0.7], [1.0], [3.0]])
    with jax.enable_x64(True):
        noise = np.asarray(gs.gumbel_noise(KEY, LOGITS.shape, jnp.float64))

        @jax.jit
        def library(logits, temperature):
            draw = functools.partial(gs.gumbel_top_k, KEY, k=k, where=where)
            soft = draw(logits, temperature=temperature)
            hard, pull_back = jax.vjp(
                lambda x, t: draw(x, temperature=t, hard=True), logits, temperature
            )
            tangents = (jnp.asarray(WEIGHTS), jnp.ones_like(temperature))
            push = jax.jvp(lambda x, t: draw(x, temperature=t), (logits, temperature), tangents)[1]
            return soft, hard, pull_back(jnp.asarray(WEIGHTS)), push

        soft, hard, (to_logits, to_temperature), push = library(
            jnp.asarray(LOGITS), jnp.asarray(per_row)
        )

    def formula(logits, temperature):
        return successive_softmax(logits + noise, temperature, k, mask)

    def loss(logits, temperature):
        return np.sum(WEIGHTS * formula(logits, temperature))

    np.testing.assert_allclose(soft, formula(LOGITS, per_row), rtol=1e-12, atol=1e-13)
    order = np.argsort(-np.where(mask, LOGITS + noise, -np.inf), -1)[:, :k]
    expected = np.zeros_like(LOGITS)
    np.put_along_axis(expected, order, 1, -1)
    np.testing.assert_array_equal(hard, expected)
    of_logits = central_differences(lambda x: loss(x, per_row), LOGITS)
    of_temperature = central_differences(lambda t: loss(LOGITS, t), per_row)
    np.testing.assert_allclose(to_logits, of_logits, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(to_temperature, of_temperature, rtol=1e-6, atol=1e-7)
    ahead = formula(LOGITS + 1e-5 * WEIGHTS, per_row + 1e-5)
    behind = formula(LOGITS - 1e-5 * WEIGHTS, per_row - 1e-5)
    np.testing.assert_allclose(push, (ahead - behind) / 2e-5, rtol=1e-6, atol=1e-7)


def test_the_hessian_is_symmetric_and_that_of_the_gradient():
    with jax.enable_x64(True):
        row, weights = jnp.asarray(LOGITS[0]), jnp.asarray(WEIGHTS[0])

        def loss(x):
            return jnp.sum(weights * gs.gumbel_top_k(KEY, x, 2, 0.7))

        hessian, gradient = jax.jit(jax.hessian(loss)), jax.jit(jax.grad(loss))
        found = hessian(row)
        columns = [
            (gradient(row + 1e-5 * unit) - gradient(row - 1e-5 * unit)) / 2e-5
            for unit in jnp.eye(6)
        ]
    np.testing.assert_allclose(found, found.T, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found, np.stack(columns, 1), rtol=1e-6, atol=1e-8)


def test_debugging_finds_no_nan_in_a_finite_gradient():
    with jax.debug_nans(True):
        gradient = jax.grad(lambda row: gs.gumbel_top_k(KEY, row, 2)[0])(jnp.zeros(5))
    assert np.all(np.isfinite(gradient))


@functools.cache
def compiled(k, dtype):
    @jax.jit
    def everything(logits, temperature, where, cotangent):
        logits, cotangent = logits.astype(dtype), cotangent.astype(dtype)
        draw = functools.partial(gs.gumbel_top_k, KEY, k=k, where=where)
        hard = draw(logits, temperature=temperature, hard=True)
        soft, pull_back = jax.vjp(lambda x, t: draw(x, temperature=t), logits, temperature)
        tangents = (cotangent, jnp.ones_like(temperature))
        push = jax.jvp(lambda x, t: draw(x, temperature=t), (logits, temperature), tangents)[1]
        return hard, soft, *pull_back(cotangent), push

    def run(logits, temperature=0.5, where=True, cotangent=None):
        shape = np.shape(logits)
        cotangent = np.arange(5.0) - 1.5 if cotangent is None else cotangent
        return [
            np.asarray(result, np.float32)
            for result in everything(
                jnp.asarray(logits, jnp.float32),
                jnp.asarray(np.broadcast_to(temperature, (shape[0], 1)), jnp.float32),
                jnp.asarray(np.broadcast_to(where, shape)),
                jnp.asarray(np.broadcast_to(cotangent, shape), jnp.float32),
            )
        ]

    return run


LARGEST = 3.4028235e38
EXTREMES = np.array(
    [
        [np.inf, np.inf, 0.0, 1.0, -np.inf],
        [LARGEST, -LARGEST, LARGEST, 0.0, -np.inf],
        [-LARGEST, -LARGEST, -LARGEST, -LARGEST, -np.inf],
        [6e4, -6e4, 6e4, 0.0, 1.0],
        [1e9, 1e9, 1e9, -1e9, 0.0],
        [-np.inf, -np.inf, -np.inf, -np.inf, -LARGEST],
        [0.0, -1000.0, -2000.0, -3000.0, -np.inf],
        [0.0, 1.0, 2.0, 3.0, 4.0],
    ]
)


@pytest.mark.parametrize("k", [2, 3, 5])
@dtypes
def test_extreme_logits_and_temperatures_stay_finite(dtype, k):
    largest = float(jnp.finfo(dtype).max)
    logits = np.where(np.isinf(EXTREMES), EXTREMES, np.clip(EXTREMES, -largest, largest))
    count = np.minimum(k, np.sum(logits > -np.inf, -1))
    for temperature in (1e-38, 1e-20, 1e-3, 1.0, 1e38, np.inf):
        hard, soft, to_logits, to_temperature, push = compiled(k, dtype)(logits, temperature)
        assert np.all((hard == 0) | (hard == 1))
        np.testing.assert_array_equal(hard.sum(-1), count)
        np.testing.assert_allclose(soft.sum(-1), count, atol=0.02)
        assert np.all(hard[np.isneginf(logits)] == 0) and np.all(soft[np.isneginf(logits)] == 0)
        assert np.all(np.isfinite(to_temperature))
        if temperature >= 1e-3 or dtype != jnp.float16:  # more than float16 can hold
            assert np.all(np.isfinite(to_logits)) and np.all(np.isfinite(push))


def test_the_second_class_is_fair_beside_a_logit_that_swallows_the_noise():
    """Added to 1e9, the noise of the others is lost; 1e-9 is the chance of 500 heads of 1,000."""
    rows = jnp.broadcast_to(jnp.array([1e9, 0.0, 0.0]), (20_000, 3))
    hard = np.asarray(gs.gumbel_top_k(KEY, rows, 2, hard=True))
    np.testing.assert_array_equal(hard[:, 0], 1)
    assert abs(hard[:, 1].mean() - 0.5) < 6 * 0.5 / np.sqrt(len(hard))
    soft = np.asarray(gs.gumbel_top_k(KEY, rows, 2, 0.1))
    assert abs(soft[:, 1].mean() - 0.5) < 0.02


def test_excluded_classes_have_no_weight_and_no_gradient():
    logits, where = LOGITS[:, :5], np.array([True, False, True, True, False])
    run = compiled(2, jnp.float32)
    expected = run(logits, where=where)
    for hidden in (np.nan, np.inf, -np.inf):
        for derivative in (np.nan, np.inf, -np.inf):
            cotangent = np.where(where, np.arange(5.0) - 1.5, derivative)
            found = run(np.where(where, logits, hidden), 0.5, where, cotangent)
            for result, value in zip(found, expected, strict=True):
                np.testing.assert_array_equal(result, value)
    for result in (expected[0], expected[1], expected[2], expected[4]):
        assert np.all(result[:, ~where] == 0) and np.all(np.any(result != 0, -1))


def test_bad_rows_are_what_is_promised_and_touch_no_other():
    logits, where = np.resize(LOGITS, (6, 5)), np.ones((6, 5), bool)
    run = compiled(3, jnp.float32)
    clean = run(logits)
    logits[1] = -np.inf
    where[2, 2:] = False  # two classes for a draw of three
    logits[3, 4] = np.nan
    temperature = np.array([0.5, 0.5, 0.5, 0.5, -1.0, 0.5])[:, None]
    found = run(logits, temperature, where)
    hard, soft, to_logits, to_temperature, push = found
    for sample in (hard, soft):
        np.testing.assert_array_equal(sample[1], 0)
        np.testing.assert_array_equal(sample[2], [1, 1, 0, 0, 0])
        assert np.all(np.isnan(sample[3:5]))
    for gradient in (to_logits, to_temperature, push):
        np.testing.assert_array_equal(gradient[1:3], 0)
    for result, value in zip(found, clean, strict=True):
        np.testing.assert_array_equal(result[[0, 5]], value[[0, 5]])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda dtype: dtype.__name__)
def test_a_hard_sample_is_the_same_bits_however_it_is_asked_for(dtype):
    logits = jax.random.normal(jax.random.key(1), (200, 9), dtype)

    def draw(logits, temperature=1.0):
        return gs.gumbel_top_k(KEY, logits, 4, temperature, hard=True)

    eager = np.asarray(draw(logits))
    assert eager.dtype == dtype and np.all((eager == 0) | (eager == 1))
    np.testing.assert_array_equal(eager.astype(np.float32).sum(-1), 4)
    differentiated = jax.jit(
        lambda x: jax.vjp(draw, x)[0],
    )(logits)
    np.testing.assert_array_equal(differentiated, eager)
    for temperature in (1e-38, 1e-3, 100.0):
        np.testing.assert_array_equal(jax.jit(draw)(logits, temperature), eager)
    nested = [gs.gumbel_top_k(KEY, logits, k, hard=True) for k in (1, 2, 3)]
    for fewer, more in zip(nested, [*nested[1:], eager], strict=True):
        assert np.all(np.asarray(fewer, np.float32) <= np.asarray(more, np.float32))
    np.testing.assert_array_equal(nested[0], gs.gumbel_softmax(KEY, logits, hard=True))


def test_the_backward_pass_keeps_one_array_whatever_k():
    logits = jnp.zeros((64, 32))
    _, backward = jax.vjp(lambda x: gs.gumbel_top_k(KEY, x, 8), logits)
    kept = sum(leaf.nbytes for leaf in jax.tree.leaves(backward) if isinstance(leaf, jax.Array))
    assert kept <= logits.nbytes + 64
