"""Gradient estimators against the true gradient: the oracles are sums over all outcomes."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gs_modules as gs
from gs_modules.train.compare import blocks
from gs_modules.train.compare.measurements import Refusal, compare
from gs_modules.train.compare.truth import ENUMERABLE, ComparisonError, true_gradient
from gs_modules.train.config_file import load

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]

KEY = jax.random.key(5)
GENERATOR = np.random.default_rng(0)
LOGITS = GENERATOR.normal(size=(2, 2, 3))  # two rows, two latents, three classes
COUPLING = GENERATOR.normal(size=(3, 3))
TEMPERATURES = (1.0, 1.5)


def bilinear(sample):
    """Straight-through at temperature 1 is unbiased for it: it is linear in each latent."""
    return jnp.einsum("...i,ij,...j->...", sample[..., 0, :], COUPLING, sample[..., 1, :])


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def jacobian(logits, temperature):
    """Of ``softmax(logits / temperature)``, ``[..., K, K]``."""
    p = softmax(logits / temperature)
    return (p[..., None] * np.eye(p.shape[-1]) - p[..., None] * p[..., None, :]) / temperature


def outcomes():
    """Probability, one-hot ``[2, 2, 3]`` and loss ``[2]`` of all 81 outcomes of both rows."""
    p = softmax(LOGITS)
    for index in itertools.product(range(3), repeat=4):
        index = np.reshape(index, (2, 2))
        one_hot = np.eye(3)[index]
        losses = np.einsum("ri,ij,rj->r", one_hot[:, 0], COUPLING, one_hot[:, 1])
        yield np.take_along_axis(p, index[..., None], -1).prod(), one_hot, losses


def true():
    return sum(
        p * losses[:, None, None] * (one_hot - softmax(LOGITS)) for p, one_hot, losses in outcomes()
    )


def straight_through(one_hot, temperature):
    """The gradient when this was drawn."""
    by_sample = np.stack([one_hot[:, 1] @ COUPLING.T, one_hot[:, 0] @ COUPLING], 1)
    return np.einsum("rlij,rlj->rli", jacobian(LOGITS, temperature), by_sample)


def cosine(a, b):
    return np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.fixture(scope="module")
def found():
    """Every estimator there is, with the defaults that YAML has for it."""
    at_one = ("temperature.kind", "constant")
    kinds = {name: load(None, [("estimator.kind", name), at_one]) for name in gs.ESTIMATORS}
    choices = {name: config.estimator for name, config in kinds.items()}
    estimators = {name: choice.build() for name, choice in choices.items()}
    logits = jnp.asarray(LOGITS, jnp.float32)
    return compare(KEY, bilinear, logits, estimators, TEMPERATURES, samples=4096)


def measured(found, name, temperature=1.0):
    rows = [one for one in found.measurements if one.estimator == name]
    return next(one for one in rows if one.temperature == temperature)


def test_enumeration_is_the_sum_over_all_outcomes(found):
    assert (found.truth.method, found.truth.count, found.truth.standard_error) == (
        "enumeration",
        9,
        0,
    )
    np.testing.assert_allclose(found.truth.gradient, true(), rtol=2e-5, atol=1e-6)
    assert found.truth.norm == pytest.approx(np.linalg.norm(true()), rel=1e-5)


def test_leave_one_out_agrees_with_enumeration_within_its_standard_error():
    logits = jnp.asarray(LOGITS, jnp.float32)
    truth = true_gradient(KEY, bilinear, logits, samples=32_000, enumerable=8)
    assert (truth.method, truth.count) == ("leave_one_out", 32_000)
    errors = truth.blocks.std(0, ddof=1) / np.sqrt(blocks.BLOCKS)
    # Student's t with 31 degrees of freedom, 12 of them: a false alarm in 1e6 runs.
    assert (np.abs(truth.gradient - true()) < 7 * errors).all()
    mean = sum(p * losses for p, _, losses in outcomes())
    square = sum(
        p * np.square((losses - mean)[:, None, None] * (one_hot - softmax(LOGITS))).sum()
        for p, one_hot, losses in outcomes()
    )
    expected = np.sqrt((square - np.square(true()).sum()) / 32_000)
    # The variance of 32 blocks in some 4 directions is known to 1/8: 6 of its standard errors.
    assert truth.standard_error == pytest.approx(expected, rel=0.4)


def test_the_number_of_outcomes_decides_and_the_limit_is_still_exact():
    weights, logits = jnp.arange(32.0).reshape(16, 2) / 10, jnp.zeros((16, 2))
    truth = true_gradient(KEY, lambda sample: (sample * weights).sum((-1, -2)), logits)
    assert (truth.method, truth.count) == ("enumeration", ENUMERABLE)
    # p (1 - p) times the difference of the weights of the two classes.
    np.testing.assert_allclose(truth.gradient, np.tile([-0.025, 0.025], (16, 1)), rtol=1e-3)


def test_impossible_outcomes_add_nothing():
    logits = jnp.asarray(LOGITS, jnp.float32).at[:, :, 2].set(-jnp.inf)
    pair = jnp.asarray(LOGITS[..., :2], jnp.float32)
    with_all = true_gradient(KEY, bilinear, logits).gradient
    without = true_gradient(KEY, lambda x: bilinear(jnp.pad(x, [(0, 0), (0, 0), (0, 1)])), pair)
    np.testing.assert_allclose(with_all[..., :2], without.gradient, rtol=1e-5, atol=1e-7)
    assert (with_all[..., 2] == 0).all()


def test_every_estimator_is_measured_at_every_temperature_or_refused(found):
    rows = [(one.estimator, one.temperature) for one in (*found.measurements, *found.refusals)]
    assert sorted(rows) == sorted(itertools.product(gs.ESTIMATORS, TEMPERATURES))
    for one in found.measurements:
        assert all(map(math.isfinite, dataclasses.astuple(one)[1:])) and one.seconds > 0


def test_straight_through_is_unbiased_for_a_bilinear_loss_at_temperature_one(found):
    one = measured(found, "straight_through")
    assert one.variance > 0.1
    # The squared bias in its standard errors is at most half of Student's t with 31 degrees of
    # freedom: beyond 4, a false alarm in 1e8 runs.
    assert one.bias_within(4)[0] == 0 and one.bias_within(4)[1] < 0.2


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_straight_through_has_the_enumerated_moments(found, temperature):
    one, norm = measured(found, "straight_through", temperature), np.linalg.norm(true())
    drawn = [(p, straight_through(one_hot, temperature)) for p, one_hot, _ in outcomes()]
    mean = sum(p * gradient for p, gradient in drawn)
    variance = sum(p * np.square(gradient - mean).sum() for p, gradient in drawn)
    cosines = [(p, cosine(gradient, true())) for p, gradient in drawn]
    mean_cosine = sum(p * value for p, value in cosines)
    deviation = np.sqrt(sum(p * (value - mean_cosine) ** 2 for p, value in cosines))
    # Each of these by 31 blocks or 4,096 samples: a false alarm in 1e6 runs.
    low, high = one.bias_within(4)
    assert low <= np.linalg.norm(mean - true()) / norm <= high
    assert abs(one.variance - variance / norm**2) < 6.5 * one.variance_standard_error
    assert abs(one.sample_cosine - mean_cosine) < 5.2 * deviation / np.sqrt(4096)
    error = np.sqrt(variance / 4096) / np.linalg.norm(mean)
    assert abs(one.cosine - cosine(mean, true())) < 5.2 * error
    assert one.error() == one.bias**2 + one.variance
    assert one.error(50) == one.bias**2 + one.variance / 50


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_argmax_has_no_variance_and_its_bias_is_exact(found, temperature):
    one = measured(found, "argmax", temperature)
    gradient = straight_through(np.eye(3)[LOGITS.argmax(-1)], temperature)
    assert one.variance == one.variance_standard_error == 0
    bias = np.linalg.norm(gradient - true()) / np.linalg.norm(true())
    assert one.bias == pytest.approx(bias, rel=1e-4) and one.bias_standard_error < 1e-6
    expected = cosine(gradient, true())
    assert (one.cosine, one.sample_cosine) == pytest.approx((expected, expected), abs=1e-5)


def test_the_relaxation_of_two_classes_has_its_closed_form():
    """Of a linear loss: the relaxed sample's mean has the derivative .165174669, p is .2444583."""
    estimators = {"soft": gs.Pathwise(), "hard": gs.StraightThroughGumbel()}
    logits = jnp.array([[[0.3, 0.0]]])
    found = compare(KEY, lambda x: x[..., 0, 0], logits, estimators, [1.0], samples=8192)
    p = 1 / (1 + math.exp(-0.3))
    for one in found.measurements:
        low, high = one.bias_within(4)
        assert low <= 1 - 0.165174669 / (p * (1 - p)) <= high and high - low < 0.1
        assert one.cosine == 1
        assert one.sample_cosine == pytest.approx(1)


def test_no_noise_is_sold_as_bias():
    """Over 2,000 repetitions, the squared norm of a mean is right on average, and so its error."""
    generator = np.random.default_rng(1)
    for length in (0.0, 0.5):
        mean = np.zeros(6)
        mean[0] = length
        draws = mean + generator.normal(size=(2000, blocks.BLOCKS, 6))
        squares, errors = np.transpose([blocks.squared_norm(draw) for draw in draws])
        # Six standard errors of the mean of 2,000; the raw square would be 6/32 too large.
        assert abs(squares.mean() - length**2) < 6 * squares.std() / np.sqrt(2000)
        # The jackknife's error is too large at length 0, where all is noise; never too small.
        assert 0.95 < np.sqrt(np.square(errors).mean()) / squares.std() < 1.6


class Picky:
    """Refuses a concrete temperature below 1, as ReinMax does: inside a trace, none is."""

    def __call__(self, key, logits, temperature, *, axis=-1, where=None):
        value = jnp.asarray(temperature)
        if not isinstance(value, jax.core.Tracer) and value < 1:
            raise ValueError(f"temperature must be at least 1, got {temperature}")
        return gs.StraightThroughArgmax()(key, logits, temperature, axis=axis, where=where)


class Explosive:
    """A gradient that is not finite."""

    def __call__(self, key, logits, temperature, *, axis=-1, where=None):
        return logits * jnp.where(temperature > 1, jnp.inf, 1.0)


def test_what_an_estimator_refuses_is_listed_and_the_rest_measured():
    logits = jnp.asarray(LOGITS, jnp.float32)
    estimators = {"picky": Picky(), "explosive": Explosive()}
    found = compare(KEY, bilinear, logits, estimators, [0.5, 1, 2], samples=64)
    reason = "temperature must be at least 1, got 0.5"
    assert found.refusals == (
        Refusal("picky", 0.5, reason),
        Refusal("explosive", 2.0, "its gradient is not finite"),
    )
    rows = [(one.estimator, one.temperature) for one in found.measurements]
    assert rows == [("picky", 1), ("picky", 2), ("explosive", 0.5), ("explosive", 1)]
    with pytest.raises(ComparisonError, match=f"takes any of the temperatures: {reason}"):
        compare(KEY, bilinear, logits, {"picky": Picky()}, [0.5])


def test_an_estimator_is_compiled_once_whatever_the_temperatures():
    counts = []
    for temperatures in ([1.0], [0.5, 1.0, 2.0, 4.0]):
        traced = []

        def loss(sample, traced=traced):
            traced.append(sample.shape)
            return bilinear(sample)

        logits = jnp.asarray(LOGITS, jnp.float32)
        compare(KEY, loss, logits, {"a": gs.StraightThroughArgmax()}, temperatures, samples=64)
        counts.append(len(traced))
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize(
    ("wrong", "error", "named"),
    [
        ({"temperatures": [0.5, -1.0]}, ValueError, "positive and finite, got -1.0"),
        ({"temperatures": [math.nan]}, ValueError, "got nan"),
        ({"temperatures": []}, ValueError, "at least one estimator and one temperature"),
        ({"estimators": {}}, ValueError, "at least one estimator and one temperature"),
        ({"logits": jnp.zeros(3)}, ValueError, r"\[..., L, K\], got shape \(3,\)"),
        ({"loss": lambda sample: bilinear(sample).sum()}, ValueError, r"shape \(2,\), got \(\)"),
        ({"loss": lambda x: bilinear(x) * jnp.nan}, ComparisonError, "gradient is not finite"),
        ({"loss": lambda x: 1 + 0 * bilinear(x)}, ComparisonError, "cannot be told from 0"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(wrong, error, named):
    given = {
        "loss": bilinear,
        "logits": jnp.asarray(LOGITS, jnp.float32),
        "estimators": {"a": gs.Pathwise()},
        "temperatures": [1.0],
        **wrong,
    }
    with pytest.raises(error, match=named):
        compare(KEY, *given.values())
