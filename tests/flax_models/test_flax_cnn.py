"""Flax's CNN whose every image chooses one of three hidden layers, in NNX."""

import functools
import math

import cnn
import cnn_gated
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import real_data
from flax import nnx

from gs_modules.nnx import assert_ticks

pytestmark = [
    pytest.mark.command,
    pytest.mark.slow,
    pytest.mark.usefixtures("promotion_as_users_have_it"),
]

STEPS = 300
images = functools.cache(real_data.images)


def cosine(step):
    """The schedule, from 1 to 0.3 in 400 steps."""
    return 0.3 + 0.7 * (1 + math.cos(math.pi * step / 400)) / 2


def new_cnn(module):
    model = module.CNN(images().train.shape[1], rngs=nnx.Rngs(0))
    return model, nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param), nnx.Rngs(1)


def cnn_batch(generator):
    rows = generator.integers(0, len(images().train), 64)
    return images().train[rows], images().train_labels[rows]


def cnn_accuracy(module, model):
    return float(module.accuracy(model, images().test, images().test_labels))


@functools.cache
def trained_cnn(module):
    """In evaluation mode."""
    model, optimizer, rngs = new_cnn(module)
    generator = np.random.default_rng(0)
    for _ in range(STEPS):
        module.train_step(model, optimizer, rngs, *cnn_batch(generator))
    model.eval()
    return model


def test_the_training_step_of_the_cnn_moves_the_clock():
    model, optimizer, rngs = new_cnn(cnn_gated)
    batch = cnn_batch(np.random.default_rng(0))
    assert_ticks(cnn_gated.train_step, model, optimizer, rngs, *batch)


def test_the_cnn_learns_to_classify():
    """Digits: 97.5 % with the gate, 97.2 % without; 13 % for the most frequent digit."""
    most_frequent = np.bincount(images().test_labels).max() / len(images().test)
    plain, gated = (cnn_accuracy(module, trained_cnn(module)) for module in (cnn, cnn_gated))
    assert gated > 0.85 > 4 * most_frequent
    assert gated > plain - 0.05


def test_the_gate_of_the_cnn_has_annealed():
    gate = nnx.clone(trained_cnn(cnn_gated).gate)
    assert gate.step[...] == STEPS
    output = gate(jnp.zeros((1, gate.in_features)), deterministic=False)
    np.testing.assert_allclose(output.temperature, cosine(STEPS), rtol=1e-6)


def test_the_cnn_is_deterministic_in_evaluation():
    model = trained_cnn(cnn_gated)
    first, second = (model(images().test) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert model.gate.step[...] == STEPS


def test_the_cnn_relies_on_its_choice():
    """With another hidden layer than the one chosen it knows half as many digits."""
    model = nnx.clone(trained_cnn(cnn_gated))
    before = cnn_accuracy(cnn_gated, model)
    dense = model.gate.dense
    nnx.update(dense, jax.tree.map(lambda leaf: jnp.roll(leaf, 1, -1), nnx.state(dense)))
    assert cnn_accuracy(cnn_gated, model) < before - 0.2
