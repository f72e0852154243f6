"""The training step and the bound: against enumeration, across frameworks, and compiled once."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import FRAMEWORKS, build_trainer, without_speed

from gs_modules import Usage
from gs_modules.train import bound, data, models
from gs_modules.train.loop import Trainer
from gs_modules.train.run_directory import parameters_sha256

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_run_compiles_its_step_once(framework, compilations):
    trainer = build_trainer(framework=framework, training__steps=110)
    traced = []

    def forward(*arguments):
        traced.append(arguments)
        return trainer.model.forward(*arguments)

    model = models.Model(**{**vars(trainer.model), "forward": forward})
    counted = Trainer(trainer.config, trainer.data, model)
    temperatures = []
    for _, records in counted.run(counted.init()):
        if records:
            assert (compilations() > 0) == (not temperatures)
            temperatures.append(records[0]["temperature"])
    assert len(traced) == 1
    assert len(temperatures) == 6 and len(set(temperatures)) > 2


def test_every_epoch_is_a_permutation_and_depends_on_the_step_alone():
    trainer = build_trainer(training__evaluate_every=30, training__checkpoint_every=30)
    per_epoch = 12  # 1,200 training images in batches of 100
    rows = trainer.batches(0, 30)
    for epoch in range(2):
        seen = np.sort(rows[epoch * per_epoch : (epoch + 1) * per_epoch].ravel())
        assert np.array_equal(seen, np.arange(1200))
    assert not np.array_equal(rows[:per_epoch], rows[per_epoch : 2 * per_epoch])
    pieces = [trainer.batches(a, b)[: b - a] for a, b in itertools.pairwise((0, 7, 12, 13, 30))]
    assert np.array_equal(np.concatenate(pieces), rows)


def test_an_evaluation_that_is_never_due_costs_no_memory():
    never = {"training__evaluate_every": 2**31 - 1, "training__checkpoint_every": 2**31 - 1}
    runs = [
        build_trainer(**never),
        build_trainer(training__evaluate_every=50, training__checkpoint_every=50),
    ]
    ends = []
    for trainer in runs:
        *_, (snapshot, records) = trainer.run(trainer.init())
        ends.append((parameters_sha256(snapshot), without_speed(records)))
    assert ends[0] == ends[1] and ends[0][1]


def dense_layers(framework, params):
    """Weights and biases of encoder and decoder, in order."""
    for part in ("encoder", "decoder"):
        for layer in range(2):
            if framework == "nnx":
                found = params[part]["layers"][layer]
                yield found, "kernel", "bias"
            elif framework == "linen":
                yield params[part][f"Dense_{layer}"], "kernel", "bias"
            else:
                suffix = f"_{layer}" if layer else ""
                yield params[f"vae/~/{part}/~/linear{suffix}"], "w", "b"


def test_the_three_frameworks_are_one_model():
    x = jnp.asarray(data.load("digits").test[:5], jnp.float32)
    codes = jax.nn.one_hot(jnp.arange(15).reshape(5, 3) % 4, 4)
    generator = np.random.default_rng(0)
    weights = [generator.normal(size=shape) for shape in ((64, 16), (16, 12), (12, 16), (16, 64))]
    outputs = []
    for framework in FRAMEWORKS:
        trainer = build_trainer(framework=framework)
        params = trainer.model.init(jax.random.key(0))
        for weight, (layer, kernel, bias) in zip(
            weights, dense_layers(framework, params), strict=True
        ):
            assert layer[kernel].shape == weight.shape
            limit = weight.shape[0] ** -0.5
            assert 0.8 * limit < jnp.abs(layer[kernel]).max() <= limit
            layer[kernel] = jnp.asarray(weight, jnp.float32)
            layer[bias] = jnp.full_like(layer[bias], 0.1)
        latent = trainer.model.encode(params, x)
        outputs.append((latent.logits, latent.kl, trainer.model.decode(params, codes)))
        hidden = np.maximum(np.asarray(x) @ weights[0] + 0.1, 0)
        np.testing.assert_allclose(
            latent.logits.reshape(5, 12), hidden @ weights[1] + 0.1, rtol=2e-5, atol=2e-5
        )
    for output in outputs[1:]:
        jax.tree.map(np.testing.assert_array_equal, output, outputs[0])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_training_noise_follows_the_key_and_temperature_the_step(framework):
    trainer = build_trainer(framework=framework, estimator__kind="pathwise")
    params = trainer.model.init(jax.random.key(0))
    x = jnp.asarray(trainer.images[:4], jnp.float32)
    forward = jax.jit(trainer.model.forward)
    _, first = forward(params, x, jax.random.key(1), 0)
    _, same = forward(params, x, jax.random.key(1), 0)
    _, other_key = forward(params, x, jax.random.key(2), 0)
    _, later = forward(params, x, jax.random.key(1), 50)
    assert np.array_equal(first.sample, same.sample)
    assert not np.array_equal(first.index, other_key.index)
    assert (float(first.temperature), float(later.temperature)) == (1.0, 0.5)
    assert np.array_equal(first.index, later.index) and later.sample.max() > first.sample.max()


def test_the_bound_is_the_enumerated_one_and_ignores_padding(monkeypatch):
    """Two latents of three classes: nine codes, so that the expectation is a short sum."""
    generator = np.random.default_rng(0)
    encoder = generator.normal(size=(5, 6))
    decoder = generator.normal(size=(6, 5))
    prior = generator.normal(size=(2, 3))

    def encode(params, x):
        from gs_modules import latent_output

        logits = (x @ jnp.asarray(encoder, jnp.float32)).reshape(-1, 2, 3)
        return latent_output(jnp.zeros_like(logits), logits, jnp.asarray(prior, jnp.float32), None)

    model = models.Model(
        init=lambda key: {},
        forward=lambda *_: pytest.fail("evaluation does not train"),
        encode=encode,
        decode=lambda params, sample: sample.reshape(-1, 6) @ jnp.asarray(decoder, jnp.float32),
        prior_logits=lambda params: jnp.asarray(prior, jnp.float32),
    )
    images = generator.integers(0, 2, (7, 5), np.uint8)
    logits = (images @ encoder).reshape(7, 2, 3)
    q = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    p = np.exp(prior) / np.exp(prior).sum(-1, keepdims=True)
    kl = (q * np.log(q / p)).sum((-1, -2))
    mean, square = np.zeros(7), np.zeros(7)
    for a, b in itertools.product(range(3), repeat=2):
        pixel_logits = decoder[a] + decoder[3 + b]
        cost = (np.logaddexp(0, pixel_logits) - images * pixel_logits).sum(-1)
        mean += q[:, 0, a] * q[:, 1, b] * cost
        square += q[:, 0, a] * q[:, 1, b] * cost**2
    samples = 4000
    standard_error = np.sqrt((square - mean**2).sum() / samples) / 7
    monkeypatch.setattr(bound, "EVALUATION_BATCH", 3)
    totals = bound.evaluate(model, {}, jnp.asarray(images), 1.0, jax.random.key(0), samples)
    assert float(totals.count) == 7 * samples
    measured = totals.metrics()
    assert measured["kl"] == pytest.approx(kl.mean(), rel=1e-4)
    # 5.3 standard errors: a false alarm in 1e7 runs.
    assert abs(measured["reconstruction"] - mean.mean()) < 5.3 * standard_error + 1e-4
    assert int(totals.usage.counts.sum()) == 2 * 7 * samples


def test_totals_of_batches_add_up_to_those_of_the_whole():
    usage = Usage(jnp.ones((2, 3), jnp.int32))
    one = bound.Totals(jnp.float32(2), jnp.float32(10), jnp.float32(4), usage)
    both = (one + one).metrics()
    assert both["neg_elbo"] == 7 and both["reconstruction"] == 5 and both["kl"] == 2
    assert both["perplexity"] == pytest.approx(3) and both["codes_used"] == 6
