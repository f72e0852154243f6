"""Gradient estimators against the table of their definitions, and as values."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gs_modules as gs

KEY = jax.random.key(11)
LOGITS = jax.random.normal(jax.random.key(0), (4, 3, 2))
COTANGENT = jax.random.normal(jax.random.key(1), (4, 3, 2))
WHERE = jnp.array([[True, False, True], [True] * 3, [False, True, True], [True] * 3])[..., None]


def drawn(logits, noise, temperature, axis, where):
    """D: the one-hot argmax of the perturbed logits, without a derivative."""
    del temperature
    scores = jnp.where(where, logits + noise, -jnp.inf)
    return jax.nn.one_hot(scores.argmax(axis), logits.shape[axis], axis=axis)


def relaxed(logits, noise, temperature, axis, where):
    return jax.nn.softmax((logits + noise) / temperature, axis, where=where)


def without_noise(function):
    return lambda logits, noise, *others: function(logits, jnp.zeros_like(noise), *others)


DEFINITIONS = {
    gs.Pathwise(): (relaxed, relaxed),
    gs.StraightThroughGumbel(): (drawn, relaxed),
    gs.StraightThrough(): (drawn, without_noise(relaxed)),
    gs.StraightThroughArgmax(): (without_noise(drawn), without_noise(relaxed)),
}
"""What comes forward, and what is differentiated in its place."""

estimators = pytest.mark.parametrize("estimator", DEFINITIONS, ids=repr)


def test_every_estimator_is_defined_here_and_named_for_yaml():
    assert {type(estimator) for estimator in DEFINITIONS} == set(gs.ESTIMATORS.values())
    public = {name for name in gs.__all__ if _is_estimator(getattr(gs, name))}
    assert public == {cls.__name__ for cls in gs.ESTIMATORS.values()}


def _is_estimator(value):
    signature = inspect.signature(gs.Estimator.__call__)
    return (
        inspect.isclass(value)
        and value is not gs.Estimator
        and list(inspect.signature(value.__call__).parameters) == list(signature.parameters)
    )


@estimators
@pytest.mark.parametrize("where", [None, WHERE], ids=["all", "masked"])
def test_forward_and_derivative_are_those_of_the_table(estimator, where):
    forward, differentiated = DEFINITIONS[estimator]
    noise = gs.gumbel_noise(KEY, LOGITS.shape)
    kept = jnp.ones(LOGITS.shape, bool) if where is None else jnp.broadcast_to(where, LOGITS.shape)

    @jax.jit
    def library(logits, temperature):
        draw = functools.partial(estimator, KEY, axis=1, where=where)
        sample, pull_back = jax.vjp(draw, logits, temperature)
        return sample, pull_back(COTANGENT)

    @jax.jit
    def table(logits, temperature):
        def formula(logits, temperature):
            return differentiated(logits, noise, temperature, 1, kept)

        gradients = jax.vjp(formula, logits, temperature)[1](COTANGENT)
        return forward(logits, noise, temperature, 1, kept), gradients

    sample, gradients = library(LOGITS, 0.6)
    expected_sample, expected_gradients = table(LOGITS, 0.6)
    assert_equal = np.testing.assert_allclose if forward is relaxed else assert_bitwise
    assert_equal(sample, expected_sample, rtol=1e-5, atol=1e-6)
    for found, expected in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def assert_bitwise(found, expected, **tolerances):
    del tolerances
    np.testing.assert_array_equal(found, expected)


@estimators
def test_estimators_are_frozen_hashable_equal_values(estimator):
    same = dataclasses.replace(estimator)
    assert same == estimator and same is not estimator and hash(same) == hash(estimator)
    assert [other == estimator for other in DEFINITIONS].count(True) == 1
    assert type(estimator).__dataclass_params__.frozen
    with pytest.raises(dataclasses.FrozenInstanceError):
        estimator.anything = 1


@estimators
def test_equal_estimators_compile_once(estimator):
    traces = []

    def draw(estimator, logits):
        traces.append(estimator)
        return estimator(KEY, logits, 0.5, axis=0)

    compiled = jax.jit(draw, static_argnums=0)
    first, again = compiled(estimator, LOGITS), compiled(dataclasses.replace(estimator), LOGITS)
    assert len(traces) == 1
    np.testing.assert_array_equal(first, again)


def test_straight_through_is_unbiased_for_linear_losses_at_temperature_one_only():
    theta, weights = np.array([0.5, -0.2, 0.1]), np.array([1.0, 2.0, 4.0])
    p = np.exp(theta) / np.exp(theta).sum()
    true_gradient = p * (weights - p @ weights)
    np.testing.assert_allclose(true_gradient, [-0.53403403, -0.03602548, 0.5700595], atol=1e-7)
    with jax.enable_x64(True):

        @jax.jit
        def loss_gradient(key, temperature):
            def loss(x):
                return jnp.sum(weights * gs.StraightThrough()(key, x, temperature))

            return jax.grad(loss)(jnp.asarray(theta))

        keys = jax.random.split(KEY, 5)
        gradients = jnp.stack([loss_gradient(key, 1.0) for key in keys])
        biased = loss_gradient(KEY, 1.3)
    # For a linear loss the gradient is the same for each of the three outcomes.
    np.testing.assert_allclose(gradients, np.tile(true_gradient, (5, 1)), rtol=1e-12)
    np.testing.assert_allclose(np.abs(np.asarray(biased) - true_gradient).max(), 0.135, atol=5e-4)
