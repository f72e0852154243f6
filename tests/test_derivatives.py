"""The derivatives of the samples, in each dtype and of each order.

The oracle is ``samplers.relaxed``, a float64 softmax in NumPy at the library's noise, which is
differentiated by central differences.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import central_differences
from jax import lax
from samplers import (
    AT_NOISE,
    DTYPES,
    KEY,
    LOGITS,
    ROWS,
    SAMPLERS,
    WITHOUT_NOISE,
    compiled,
    every_dtype,
    relaxed,
)
from scipy import integrate, special, stats

import gs_modules as gs


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("harder", [False, True], ids=["plain", "masked_per_row"])
def test_values_and_gradients_are_those_of_the_relaxation(axis, harder):
    random = np.random.default_rng(0)
    logits, weights = random.normal(size=(2, 2, 3, 4))
    temperature, where = np.array(0.7), np.ones((2, 3, 4), bool)
    if harder:
        temperature = random.uniform(0.3, 2.0, (2, 3, 4)).mean(axis, keepdims=True)
        where = random.uniform(size=(2, 3, 4)) > 0.3
        where |= ~where.any(axis, keepdims=True)

    @jax.jit
    def library(logits, temperature, weights):
        def one(sample):
            draw = functools.partial(sample, KEY, axis=axis, where=where if harder else None)
            drawn, pull_back = jax.vjp(draw, logits, temperature)
            return drawn, *pull_back(weights.astype(drawn.dtype))

        return {name: one(SAMPLERS[name]) for name in AT_NOISE[:-1] + WITHOUT_NOISE}

    with jax.enable_x64(True):
        noise = np.asarray(gs.gumbel_noise(KEY, logits.shape, jnp.float64))
        if logits.shape[axis] == 2:  # only their difference counts, and is drawn at once
            odds = gs.gumbel_log_odds(
                KEY, jnp.zeros_like(jnp.take(logits, jnp.arange(1), axis)), 1.0
            )
            noise = np.concatenate([odds, 0 * odds], axis)
        found = library(logits, temperature, weights)
    np.testing.assert_allclose(
        found["soft"][0], relaxed(logits, noise, temperature, where, axis), rtol=1e-12
    )
    for name in found:
        noise_of_derivative = noise if name in AT_NOISE else 0 * noise

        def loss(logits, temperature, noise=noise_of_derivative):
            return np.sum(weights * relaxed(logits, noise, temperature, where, axis))

        expected = [
            central_differences(lambda x: loss(x, temperature), logits),
            central_differences(lambda x: loss(logits, x), temperature),
        ]
        for gradient, value in zip(found[name][1:], expected, strict=True):
            np.testing.assert_allclose(gradient, value, rtol=1e-6, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("name", AT_NOISE + WITHOUT_NOISE)
@every_dtype
def test_gradients_in_each_dtype_are_the_float64_ones_rounded(name, dtype):
    logits = np.asarray(jnp.asarray(ROWS, dtype), np.float64)
    noise = np.asarray(gs.gumbel_noise(KEY, (8, 5)), np.float64)
    noise = noise if name in AT_NOISE else 0 * noise
    weights, per_row = np.arange(5.0) - 1.5, np.full((8, 1), 0.5)
    found = compiled(name, dtype)(logits)
    epsilon = float(jnp.finfo(dtype).eps)
    for gradient, expected in [
        (
            found.to_logits,
            central_differences(lambda x: np.sum(weights * relaxed(x, noise, 0.5)), logits),
        ),
        (
            found.to_temperature,
            central_differences(lambda t: np.sum(weights * relaxed(logits, noise, t)), per_row),
        ),
    ]:
        # 8 units of 1, scaled by the cotangent and the temperature
        np.testing.assert_allclose(
            gradient.astype(np.float64), expected, rtol=4 * epsilon, atol=8 * 2.0**-23 * 2.5 / 0.5
        )


@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
def test_the_hessian_is_that_of_the_relaxation_and_symmetric(hard):
    weights = jnp.array([1.0, -2.0, 0.5, 3.0])
    with jax.enable_x64(True):
        noise = gs.gumbel_noise(KEY, (4,), jnp.float64)

        def library(x):
            drawn = gs.gumbel_softmax(KEY, x[:4], x[4], hard=hard)
            return jnp.sum(weights.astype(x.dtype) * drawn)

        def formula(x):
            return jnp.sum(weights.astype(x.dtype) * jax.nn.softmax((x[:4] + noise) / x[4]))

        x = jnp.array([0.3, -0.7, 1.1, 0.0, 0.6], jnp.float64)
        found, expected = (jax.jit(jax.hessian(f))(x) for f in (library, formula))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(found, found.T, rtol=1e-9, atol=1e-11)


TWICE = {
    **SAMPLERS,
    "top_2": functools.partial(gs.gumbel_top_k, k=2),
    "hard_top_2": functools.partial(gs.gumbel_top_k, k=2, hard=True),
    "sigmoid": gs.gumbel_sigmoid,
    "hard_sigmoid": functools.partial(gs.gumbel_sigmoid, hard=True),
}


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("name", TWICE)
def test_second_derivatives_of_a_loss_follow_the_chain_rule(name, classes):
    """``sum(sin(S))`` bends by what is linear in S, and by ``-J' diag(sin(S)) J``, J that of S.

    A rule that forgets that its own value has a derivative passes every test of a linear loss.
    """

    def sample(x):
        return TWICE[name](KEY, x[:-1], temperature=x[-1])

    def loss_without_its_linear_part(x):
        drawn = sample(x)
        return jnp.sum(jnp.sin(drawn) - lax.stop_gradient(jnp.cos(drawn)) * drawn)

    @jax.jit
    def both(x, direction):
        bent = jax.jvp(jax.grad(loss_without_its_linear_part), (x,), (direction,))[1]
        drawn, change = jax.jvp(sample, (x,), (direction,))
        return bent, jax.vjp(sample, x)[1](-jnp.sin(drawn) * change)[0]

    x, direction = jnp.array([[0.3, -0.7, 1.1, 0.0, 1.2], [0.9, -0.4, 0.5, -1.3, 0.7]])
    found, expected = both(x[-1 - classes :], direction[-1 - classes :])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def every_loss(key):
    weights = jnp.array([1.0, -2.0, 0.5, 3.0])

    def loss(draw, row, temperature):
        return jnp.sum(weights * draw(key, row, temperature))

    return [functools.partial(loss, draw) for draw in SAMPLERS.values()]


def test_second_derivatives_are_finite_for_temperatures_from_1e_18():
    def total(row, temperature):
        return sum(loss(row, temperature) for loss in every_loss(KEY))

    row = jnp.array([0.3, -np.inf, 1.1, 0.0])
    hessian = jax.jit(jax.hessian(total, (0, 1)))
    for temperature in (1e-18, 1e-3, 1.0, 1e18):
        for block in jax.tree.leaves(hessian(row, jnp.float32(temperature))):
            assert np.all(np.isfinite(block))


def test_transformations_change_no_value_and_no_gradient():
    keys = jax.random.split(KEY, 3)

    def with_gradients(wrapped=lambda loss: loss, mode=jax.jacrev):
        def with_value(loss):
            def twice(*row):
                value = loss(*row)
                return value, value

            return mode(twice, (0, 1), has_aux=True)

        def of_row(key, *row):
            return [with_value(wrapped(loss))(*row) for loss in every_loss(key)]

        return jax.jit(of_row)

    rows = [(key, row, 0.5) for key, row in zip(keys, LOGITS, strict=True)]
    plain = with_gradients()
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *(plain(*row) for row in rows))
    batched = (keys, LOGITS, jnp.full(3, 0.5))
    remat = with_gradients(jax.checkpoint)
    results = {
        "vmap": jax.vmap(plain)(*batched),
        "forward": jax.vmap(with_gradients(mode=jax.jacfwd))(*batched),
        "scan and remat": lax.scan(lambda _, row: (None, remat(*row)), None, batched)[1],
    }
    tolerance = 8 * 2.0**-23 * 3 / 0.5  # 8 units of 1, scaled by the cotangent and the temperature
    for name, result in results.items():
        for found, value in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(found, value, rtol=0, atol=tolerance, err_msg=name)


def test_the_closed_forms_of_two_classes():
    """``y0 = sigmoid((0.3 + logistic noise) / T)``: its mean and the derivatives of the mean."""

    def expectation(function):
        return integrate.quad(lambda z: function(z) * stats.logistic.pdf(z), -60, 60)[0]

    def slope(z):
        return special.expit(0.3 + z) * special.expit(-0.3 - z)

    values = [
        expectation(lambda z: special.expit(0.3 + z)),
        expectation(slope),
        expectation(lambda z: -(0.3 + z) * slope(z)),
    ]
    np.testing.assert_allclose(values, [0.5498504807, 0.165174669, -0.0247762], atol=5e-8)
    rows = jnp.broadcast_to(jnp.array([0.3, 0.0]), (10**6, 2))

    @jax.jit
    def draws(rows):
        def first(rows, temperature):
            return gs.gumbel_softmax(KEY, rows, temperature)[:, 0]

        tangent = jnp.zeros_like(rows).at[:, 0].set(1)
        value, by_logit = jax.jvp(lambda rows: first(rows, 1.0), (rows,), (tangent,))
        by_temperature = jax.jvp(lambda t: first(rows, t), (1.0,), (1.0,))[1]
        return jnp.stack([value, by_logit, by_temperature])

    found = np.asarray(draws(rows), np.float64)
    standard_errors = found.std(1) / 1e3
    assert np.all(np.abs(found.mean(1) - values) < 5 * standard_errors)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_backward_pass_keeps_the_relaxed_sample_alone(hard, dtype):
    logits = jnp.zeros((64, 32), dtype)

    def sample(logits, temperature):
        return gs.gumbel_softmax(jax.random.key(0), logits, temperature, hard=hard)

    _, backward = jax.vjp(sample, logits, jnp.float32(0.5))
    kept = [leaf.nbytes for leaf in jax.tree.leaves(backward) if isinstance(leaf, jax.Array)]
    assert 4 * logits.size <= sum(kept) <= 4 * logits.size + 64
