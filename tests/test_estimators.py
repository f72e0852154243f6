"""Gradient estimators against the table of their definitions, and as values."""

import dataclasses
import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import stats

import gs_modules as gs
from gs_modules._draw import key_of_others

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


def at(temperature, function):
    return lambda logits, noise, _, *others: function(logits, noise, temperature, *others)


def softened(logits, noise, temperature, axis, where):
    """What ``DecoupledStraightThrough(0.8, hard=False)`` differentiates."""
    of_logits = relaxed(logits, noise, 0.8, axis, where)
    return of_logits + relaxed(lax.stop_gradient(logits), noise, temperature, axis, where)


def gapped(logits, noise, temperature, axis, where):
    d = drawn(logits, noise, temperature, axis, where)
    largest = jnp.max(jnp.where(where, logits, -jnp.inf), axis, keepdims=True)
    m1 = jnp.sum((largest - logits) * d, axis, keepdims=True) * d
    m2 = jax.nn.relu(logits + 1.5 - largest) * (1 - d)
    return jax.nn.softmax((logits + lax.stop_gradient(m1 - m2)) / temperature, axis, where=where)


def reinmax(logits, noise, temperature, axis, where):
    d = drawn(logits, noise, temperature, axis, where)
    p_d = (jax.nn.softmax(logits / temperature, axis, where=where) + d) / 2
    shifted = lax.stop_gradient(jnp.log(jnp.where(where, p_d, 1)) - logits) + logits
    first_order = jax.nn.softmax(logits, axis, where=where)
    return 2 * jax.nn.softmax(shifted, axis, where=where) - first_order / 2


def gumbel_rao(logits, noise, temperature, axis, where):
    """From the conditional law in its plain form, at the noise of 3 samples."""
    d = drawn(logits, noise, temperature, axis, where)
    p = jax.nn.softmax(logits, axis, where=where)
    total = 0
    others = gs.gumbel_noise(key_of_others(KEY), (3, *logits.shape), logits.dtype)
    for exponential in jnp.exp(-others):
        of_drawn = jnp.sum(exponential * d, axis, keepdims=True)
        others = -jnp.log(exponential / jnp.where(where, p, 1) + of_drawn)
        conditioned = jnp.where(d == 1, -jnp.log(of_drawn), others)
        shifted = lax.stop_gradient(conditioned - logits) + logits
        total += jax.nn.softmax(shifted / temperature, axis, where=where)
    return total / 3


DEFINITIONS = {
    gs.Pathwise(): (relaxed, relaxed),
    gs.StraightThroughGumbel(): (drawn, relaxed),
    gs.StraightThrough(): (drawn, without_noise(relaxed)),
    gs.DecoupledStraightThrough(0.8): (drawn, at(0.8, relaxed)),
    gs.DecoupledStraightThrough(0.8, hard=False): (relaxed, softened),
    gs.GumbelRao(num_samples=3): (drawn, gumbel_rao),
    gs.GappedStraightThrough(gap=1.5): (drawn, gapped),
    gs.ReinMax(): (drawn, reinmax),
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
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("harder", [False, True], ids=["plain", "masked_per_row"])
def test_forward_and_derivative_are_those_of_the_table(estimator, axis, harder):
    """In float64, to 1e-10; with masks and a temperature for each row when harder."""
    forward, differentiated = DEFINITIONS[estimator]
    temperature = np.float64(1.3)
    if harder:
        shape = [1 if i == axis else size for i, size in enumerate(LOGITS.shape)]
        temperature = np.random.default_rng(0).uniform(1.0, 2.0, shape)
    where = np.broadcast_to(WHERE, LOGITS.shape) if harder else np.ones(LOGITS.shape, bool)
    where = where | ~where.any(axis, keepdims=True)
    with jax.enable_x64(True):
        logits, cotangent = LOGITS.astype(jnp.float64), COTANGENT.astype(jnp.float64)
        noise = gs.gumbel_noise(KEY, LOGITS.shape, jnp.float64)

        @jax.jit
        def both(logits, temperature):
            draw = functools.partial(estimator, KEY, axis=axis, where=where if harder else None)
            sample, pull_back = jax.vjp(draw, logits, temperature)

            def formula(logits, temperature):
                return differentiated(logits, noise, temperature, axis, where)

            expected = forward(logits, noise, temperature, axis, where).astype(jnp.float64)
            gradients = jax.vjp(formula, logits, temperature)[1](cotangent)
            return (sample, pull_back(cotangent)), (expected, gradients)

        (sample, found), (expected_sample, expected) = both(logits, temperature)
    assert_equal = np.testing.assert_allclose if forward is relaxed else assert_bitwise
    assert_equal(sample, expected_sample, rtol=1e-12)
    if isinstance(estimator, gs.ReinMax):  # no derivative through the target of the correction
        expected = (expected[0], np.zeros_like(expected[1]))
    for gradient, value in zip(found, expected, strict=True):
        np.testing.assert_allclose(gradient, value, rtol=1e-10, atol=1e-11)


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
        return estimator(KEY, logits, 1.5, axis=0)

    compiled = jax.jit(draw, static_argnums=0)
    first, again = compiled(estimator, LOGITS), compiled(dataclasses.replace(estimator), LOGITS)
    assert len(traces) == 1
    np.testing.assert_array_equal(first, again)


THETA = np.array([0.5, -0.2, 0.1])
OUTCOMES = np.eye(3)


def softmax(theta):
    return np.exp(theta) / np.exp(theta).sum()


def keys_of_each_outcome(theta):
    """For each class a key under which it is drawn, so that an expectation is a sum of three."""
    found = {}
    for key in jax.random.split(KEY, 40):
        found.setdefault(int(gs.gumbel_max(key, jnp.asarray(theta))), key)
    return [found[index] for index in range(3)]


def mean_gradient(estimator, temperature, loss):
    """Of an estimator whose derivative depends on the index only, by enumeration in float64."""
    with jax.enable_x64(True):
        theta = jnp.asarray(THETA)
        keys = keys_of_each_outcome(theta)

        @jax.jit
        def gradient(key, temperature):
            return jax.grad(lambda x: loss(estimator(key, x, temperature)))(theta)

        gradients = np.stack([gradient(key, jnp.float64(temperature)) for key in keys])
    return softmax(THETA) @ gradients


def true_gradient(loss):
    with jax.enable_x64(True):
        losses = np.array([loss(jnp.asarray(outcome)) for outcome in OUTCOMES])
    p = softmax(THETA)
    return p * (losses - p @ losses)


def linear(x):
    return x @ jnp.array([1.0, 2.0, 4.0], x.dtype)


def quadratic(x):
    matrix = jnp.array([[1.0, -2.0, 0.3], [0.7, 3.0, -1.1], [2.0, 0.4, -0.6]], x.dtype)
    return x @ matrix @ x + linear(x)


def cubic(x):
    return jnp.sum(jnp.array([1.0, 2.0, 4.0], x.dtype) * (x - 0.45) ** 3)


def test_the_true_gradient_of_the_linear_loss_is_the_published_one():
    np.testing.assert_allclose(
        true_gradient(linear), [-0.53403403, -0.03602548, 0.5700595], atol=1e-8
    )


def largest_bias(estimator, temperature, loss):
    return np.abs(mean_gradient(estimator, temperature, loss) - true_gradient(loss)).max()


def test_straight_through_is_unbiased_for_linear_losses_at_temperature_one_only():
    assert largest_bias(gs.StraightThrough(), 1.0, linear) < 1e-12
    np.testing.assert_allclose(largest_bias(gs.StraightThrough(), 1.3, linear), 0.135, atol=5e-4)
    assert largest_bias(gs.StraightThrough(), 1.0, quadratic) > 0.1


def test_reinmax_is_unbiased_for_quadratic_losses_at_temperature_one_only():
    assert largest_bias(gs.ReinMax(), 1.0, linear) < 1e-10
    assert largest_bias(gs.ReinMax(), 1.0, quadratic) < 1e-10
    assert largest_bias(gs.ReinMax(), 1.3, linear) > 1e-2
    assert largest_bias(gs.ReinMax(), 1.3, quadratic) > 1e-2
    assert largest_bias(gs.ReinMax(), 1.0, cubic) > 1e-2


@pytest.mark.parametrize("loss", [linear, quadratic, cubic], ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("n", [2, 3])
def test_leave_one_out_is_unbiased_for_every_loss(loss, n):
    """Over all 3**n outcomes of n samples, each with its probability."""
    outcomes = np.array(list(itertools.product(range(3), repeat=n)))
    probability = softmax(THETA)[outcomes].prod(-1)
    with jax.enable_x64(True):
        losses = jnp.array([loss(jnp.asarray(outcome)) for outcome in OUTCOMES])

        @jax.jit
        @jax.vmap
        def gradient(index):
            def objective(theta):
                rows = jnp.broadcast_to(theta, (n, 3))
                log_probs = gs.categorical_log_prob(index, rows)
                return gs.leave_one_out_reinforce(losses[index], log_probs)

            return jax.grad(objective)(jnp.asarray(THETA))

        mean = probability @ np.asarray(gradient(outcomes))
    np.testing.assert_allclose(mean, true_gradient(loss), rtol=1e-12)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_gumbel_rao_has_the_mean_of_straight_through_gumbel_and_less_variance(temperature):
    """5 standard errors of the difference: a false alarm in 6e7 of these 9 comparisons."""
    draws = 40_000
    keys = jax.random.split(jax.random.key(int(10 * temperature)), (2, draws))

    def gradients(estimator, keys):
        def loss(theta, key):
            return linear(estimator(key, theta, temperature)) * 1.0

        return jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(jnp.asarray(THETA, jnp.float32), keys)

    plain = np.asarray(gradients(gs.StraightThroughGumbel(), keys[0]), np.float64)
    averaged = np.asarray(gradients(gs.GumbelRao(num_samples=10), keys[1]), np.float64)
    error = np.sqrt((plain.var(0) + averaged.var(0)) / draws)
    assert np.all(np.abs(plain.mean(0) - averaged.mean(0)) < 5 * error)
    assert np.all(averaged.var(0) < 0.9 * plain.var(0))


def test_one_rao_sample_has_the_law_of_straight_through_gumbel():
    """The conditional law: its perturbed logits have the unconditional one. 1e-6 false alarm."""
    draws = 20_000
    keys = jax.random.split(jax.random.key(5), (2, draws))

    def first_gradient(estimator, keys):
        def loss(theta, key):
            return linear(estimator(key, theta, 0.7))

        gradient = jax.vmap(jax.grad(loss), (None, 0))
        return jax.jit(gradient)(jnp.asarray(THETA, jnp.float32), keys)[:, 0]

    one = first_gradient(gs.GumbelRao(num_samples=1), keys[0])
    other = first_gradient(gs.StraightThroughGumbel(), keys[1])
    assert stats.ks_2samp(np.asarray(one), np.asarray(other)).pvalue > 1e-6


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (lambda: gs.DecoupledStraightThrough(0.0), ValueError, r"backward_temperature.*0\.0"),
        (lambda: gs.DecoupledStraightThrough(np.inf), ValueError, "backward_temperature.*inf"),
        (lambda: gs.DecoupledStraightThrough("1"), TypeError, "backward_temperature.*'1'"),
        (lambda: gs.DecoupledStraightThrough(1.0, hard=1), TypeError, "hard"),
        (lambda: gs.GumbelRao(0), ValueError, "num_samples.*0"),
        (lambda: gs.GumbelRao(1.5), TypeError, r"num_samples.*1\.5"),
        (lambda: gs.GappedStraightThrough(-1.0), ValueError, "gap.*-1"),
        (lambda: gs.GappedStraightThrough(None), TypeError, "gap.*None"),
    ],
)
def test_impossible_options_are_refused_by_name(build, error, match):
    with pytest.raises(error, match=match):
        build()


def test_reinmax_refuses_a_concrete_temperature_below_one():
    with pytest.raises(ValueError, match=r"ReinMax must be at least 1, got 0\.9"):
        gs.ReinMax()(KEY, LOGITS, 0.9)
    per_row = jnp.array([1.0, 2.0, 0.5, 1.0]).reshape(4, 1, 1)
    with pytest.raises(ValueError, match=r"ReinMax must be at least 1, got 0\.5"):
        gs.ReinMax()(KEY, LOGITS, per_row)
