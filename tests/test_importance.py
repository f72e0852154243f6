"""The importance-weighted bound against enumeration."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gs_modules import latent_output
from gs_modules.train import bound, importance, models
from gs_modules.train.importance import likelihoods

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]

CODES = list(itertools.product(range(3), repeat=2))
"""Two latents of three classes: nine codes, so that an expectation is a short sum."""


class Tiny:
    """A model of five pixels, and in float64 what it says of some images."""

    def __init__(self):
        generator = np.random.default_rng(0)
        self.encoder = generator.normal(size=(5, 6))
        self.decoder = 2 * generator.normal(size=(6, 5))
        self.prior = generator.normal(size=(2, 3))
        self.images = generator.integers(0, 2, (7, 5), np.uint8)
        prior = jnp.asarray(self.prior, jnp.float32)

        def encode(params, x):
            logits = (x @ jnp.asarray(self.encoder, jnp.float32)).reshape(-1, 2, 3)
            return latent_output(jnp.zeros_like(logits), logits, prior, None)

        self.model = models.Model(
            init=lambda key: {},
            forward=lambda *_: pytest.fail("evaluation does not train"),
            encode=encode,
            decode=lambda params, sample: (
                sample.reshape(*sample.shape[:-2], 6) @ jnp.asarray(self.decoder, jnp.float32)
            ),
            prior_logits=lambda params: prior,
        )
        log_q = log_softmax((self.images @ self.encoder).reshape(7, 2, 3))
        log_p = log_softmax(self.prior)
        self.q = np.exp([log_q[:, 0, a] + log_q[:, 1, b] for a, b in CODES])  # [9, 7]
        pixels = np.array([self.decoder[a] + self.decoder[3 + b] for a, b in CODES])
        self.cost = np.logaddexp(0, pixels).sum(-1)[:, None] - pixels @ self.images.T
        self.log_prior = np.array([log_p[0, a] + log_p[1, b] for a, b in CODES])[:, None]
        self.log_weight = self.log_prior - np.log(self.q) - self.cost
        self.log_likelihood = np.log((self.q * np.exp(self.log_weight)).sum(0))  # [7]

    def evaluate(self, samples, *, copies=1, seed=0):
        images = np.repeat(self.images, copies, 0)
        key = jax.random.key(seed)
        return likelihoods(self.model, {}, images, 1.0, key, samples, widest=6)


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.fixture
def tiny():
    return Tiny()


def test_the_mean_of_the_bound_is_that_of_all_samples(tiny):
    """For one and two samples, the expectation over all of them is a sum of 9 and 81 terms."""
    copies = 4000
    pairs = np.logaddexp(tiny.log_weight[:, None], tiny.log_weight) - math.log(2)
    for samples, q, log_mean in (
        (1, tiny.q, tiny.log_weight),
        (2, (tiny.q[:, None] * tiny.q).reshape(81, 7), pairs.reshape(81, 7)),
    ):
        found = tiny.evaluate(samples, copies=copies).importance_weighted.reshape(7, copies)
        expected = (q * log_mean).sum(0)
        error = np.sqrt((q * (log_mean - expected) ** 2).sum(0) / copies)
        # 6 standard errors: a false alarm in 7e7 runs.
        assert np.all(np.abs(found.mean(1) - expected) < 6 * error + 1e-5)


def test_the_bound_rises_with_the_samples_to_the_likelihood(tiny):
    means = [
        tiny.evaluate(samples, copies=copies).importance_weighted.mean()
        for samples, copies in ((1, 1000), (8, 500), (64, 100), (20_000, 1))
    ]
    assert means[0] < means[1] - 0.1 and means[1] < means[2] < means[3] + 1e-2
    found = tiny.evaluate(20_000).importance_weighted
    ratio = np.exp(tiny.log_weight - tiny.log_likelihood)
    variance = (tiny.q * (ratio - 1) ** 2).sum(0) / 20_000
    assert np.all(np.abs(found - tiny.log_likelihood) < 6 * np.sqrt(variance) + 1e-5)


def test_the_other_figures_are_the_enumerated_ones(tiny):
    samples = 5000
    found = tiny.evaluate(samples)
    np.testing.assert_allclose(
        found.kl, (tiny.q * (np.log(tiny.q) - tiny.log_prior)).sum(0), rtol=1e-5
    )
    expected = (tiny.q * tiny.cost).sum(0)
    error = np.sqrt((tiny.q * (tiny.cost - expected) ** 2).sum(0) / samples)
    assert np.all(np.abs(found.reconstruction - expected) < 6 * error + 1e-4)
    assert found.usage.counts.sum() == 2 * 7 * samples
    metrics = found.metrics()
    assert metrics["neg_elbo"] == pytest.approx(metrics["reconstruction"] + metrics["kl"])
    assert metrics["neg_importance_weighted"] == -found.importance_weighted.mean()


@pytest.mark.parametrize("together", [1, 3, 4, 10])
def test_samples_drawn_together_change_nothing_but_rounding(together, tiny, monkeypatch):
    whole = tiny.evaluate(10)
    monkeypatch.setattr(importance, "TOGETHER", together * 7 * 6)
    parts = tiny.evaluate(10)
    np.testing.assert_allclose(
        parts.importance_weighted, whole.importance_weighted, rtol=1e-6, atol=1e-6
    )
    np.testing.assert_allclose(parts.reconstruction, whole.reconstruction, rtol=1e-6)
    assert np.array_equal(parts.usage.counts, whole.usage.counts)


def test_images_left_over_from_whole_batches_count_once(tiny, monkeypatch):
    monkeypatch.setattr(bound, "EVALUATION_BATCH", 3)
    monkeypatch.setattr(importance, "EVALUATION_BATCH", 3)
    found = tiny.evaluate(2000)
    assert found.importance_weighted.shape == (7,) and found.usage.counts.sum() == 2 * 7 * 2000
    ratio = np.exp(tiny.log_weight - tiny.log_likelihood)
    variance = (tiny.q * (ratio - 1) ** 2).sum(0) / 2000
    assert np.all(np.abs(found.importance_weighted - tiny.log_likelihood) < 7 * variance**0.5)


@pytest.mark.parametrize("scale", [1.0, 3000.0])
def test_with_the_true_posterior_every_sample_says_the_same(scale, monkeypatch):
    """Then every weight is the likelihood, of thousands of nats: what is left is rounding."""
    generator = np.random.default_rng(1)
    decoder = scale * generator.normal(size=(6, 5)).astype(np.float32)
    images = generator.integers(0, 2, (4, 5), np.uint8)
    cost = np.logaddexp(0, decoder.astype(np.float64)).sum(-1) - images @ decoder.T.astype(float)
    # Far from the largest: these are never drawn, and their posterior is 0.
    joint = -cost - math.log(6)
    highest = joint.max(-1, keepdims=True)
    exact = highest[:, 0] + np.log(np.exp(joint - highest).sum(-1))

    def encode(params, x):
        logits = -bound.reconstruction(jnp.asarray(decoder), x[:, None])[:, None]
        return latent_output(jnp.zeros_like(logits), logits, None, None)

    model = models.Model(
        init=lambda key: {},
        forward=lambda *_: pytest.fail("evaluation does not train"),
        encode=encode,
        decode=lambda params, sample: sample[..., 0, :] @ jnp.asarray(decoder),
        prior_logits=lambda params: jnp.zeros((1, 6)),
    )
    monkeypatch.setattr(importance, "TOGETHER", 4 * 6 * 8)
    for samples in (1, 100):
        found = likelihoods(model, {}, images, 1.0, jax.random.key(0), samples, widest=6)
        np.testing.assert_allclose(found.importance_weighted, exact, rtol=5e-7, atol=2e-6)


def test_memory_does_not_grow_with_the_samples(tiny):
    arguments = (tiny.model, {}, tiny.images, np.ones(7, bool), 1.0, jax.random.key(0))
    sizes = [
        importance._of_batch.lower(*arguments, samples, 10).compile().memory_analysis()
        for samples in (10, 1_000_000)
    ]
    assert sizes[0].temp_size_in_bytes == sizes[1].temp_size_in_bytes < 100_000
