"""What latents and gates return in every framework."""

import functools
import itertools
import re

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import ANNEALED, KEY, every_framework, started
from flax import nnx
from frameworks import (
    CLASSES,
    LATENTS,
    inputs,
    model,
)

import gs_modules as gs

# --- the categorical latent --------------------------------------------------------------------


@every_framework
def test_a_latent_reports_its_codes_its_logits_and_its_kl(framework):
    built, params, state = started(framework, "CategoricalLatent")
    output = built.train(params, state, KEY, inputs())[0][0]
    logits = inputs().reshape(4, LATENTS, CLASSES)
    assert isinstance(output, gs.LatentOutput) and output.deterministic is False
    np.testing.assert_array_equal(output.logits, logits)
    np.testing.assert_array_equal(output.index, output.sample.argmax(-1))
    assert output.index.dtype == jnp.int32
    np.testing.assert_allclose(output.kl, gs.categorical_kl(logits).sum(-1), rtol=1e-6)


@every_framework
def test_a_latent_takes_flat_and_nested_logits_and_refuses_other_shapes(framework):
    built, params, state = started(framework, "CategoricalLatent")
    shapes = {(6,): (), (2, 3): (), (4, 6): (4,), (4, 2, 3): (4,), (5, 4, 6): (5, 4), (0, 6): (0,)}
    for shape, batch in shapes.items():
        output = built.train(params, state, KEY, jnp.zeros(shape))[0][0]
        assert output.sample.shape == (*batch, LATENTS, CLASSES)
        assert (output.index.shape, output.kl.shape) == ((*batch, LATENTS), batch)
    for shape in ((), (5,), (3, 2), (4, 3, 2), (4, 2, 4), (4, 7)):
        with pytest.raises(ValueError, match=r"2 latents of 3 classes.*\[\.\.\., 6\]"):
            built.train(params, state, KEY, jnp.zeros(shape))


@every_framework
def test_one_latent_is_always_flat(framework):
    built = model(framework, "CategoricalLatent", num_latents=1)
    params, state = built.init(KEY, jnp.zeros((4, 3)))
    assert built.train(params, state, KEY, jnp.zeros((1, 3)))[0][0].kl.shape == (1,)
    assert built.train(params, state, KEY, jnp.zeros((4, 1, 3)))[0][0].kl.shape == (4, 1)


@every_framework
@pytest.mark.parametrize("prior", ["uniform", "learned"])
@pytest.mark.parametrize("name", ["num_latents", "num_classes"])
@pytest.mark.parametrize("value", [0, -2, 2.0, True, "2", None, np.float32(2)], ids=repr)
def test_numbers_of_latents_and_classes_are_positive_integers(framework, prior, name, value):
    error = ValueError if type(value) is int else TypeError
    with pytest.raises(
        error, match=rf"^CategoricalLatent.*: {name} must be .*, got {re.escape(repr(value))}"
    ):
        model(framework, "CategoricalLatent", prior=prior, **{name: value}).init(KEY, inputs())


@every_framework
def test_a_learned_prior_starts_uniform_and_gets_the_gradient_of_the_kl(framework):
    built, params, state = started(framework, "CategoricalLatent", prior="learned")
    (prior,) = jax.tree.leaves(params)
    np.testing.assert_array_equal(prior, np.zeros((LATENTS, CLASSES)))

    def mean_kl(params):
        return built.train(params, state, KEY, inputs())[0][0].kl.mean()

    (gradient,) = jax.tree.leaves(jax.grad(mean_kl)(params))
    posterior = jax.nn.softmax(inputs().reshape(4, LATENTS, CLASSES))
    np.testing.assert_allclose(gradient, 1 / CLASSES - posterior.mean(0), atol=1e-6)
    assert jax.tree.leaves(started(framework, "CategoricalLatent")[1]) == []


@every_framework
def test_an_unknown_prior_is_refused_by_name(framework):
    with pytest.raises(
        ValueError, match=r"^CategoricalLatent.*: prior.*'uniform'.*'learned'.*'normal'"
    ):
        model(framework, "CategoricalLatent", prior="normal").init(KEY, inputs())


# --- the gate ----------------------------------------------------------------------------------


def free_gate(framework, **options):
    """A gate of six choices without an input: ``init`` and ``call(params, state, key, **call)``."""
    options = {"num_choices": 6, "temperature": ANNEALED} | options
    if framework.name == "nnx":
        gate = framework.api.GumbelGate(**options, rngs=nnx.Rngs(0))
        graph, params, others = nnx.split(gate, nnx.Param, ...)

        def call(params, key, **call):
            return nnx.merge(graph, params, others, copy=True)(key=key, **call)

        return params, call
    if framework.name == "linen":
        gate = framework.api.GumbelGate(**options)
        variables = gate.init({"params": KEY, "gumbel": KEY})
        mutable = ["anneal"]
        return variables["params"], lambda params, key, **call: gate.apply(
            {**variables, "params": params}, key=key, mutable=mutable, **call
        )[0]
    gate = hk.transform_with_state(lambda **call: framework.api.GumbelGate(**options)(**call))
    params, state = gate.init(KEY)
    return params, lambda params, key, **call: gate.apply(params, state, None, key=key, **call)[0]


@every_framework
@pytest.mark.parametrize("k", [1, 3])
def test_free_logits_start_equal_and_get_the_gradient_of_the_core(framework, k):
    params, call = free_gate(framework, k=k)
    (logits,) = jax.tree.leaves(params)
    np.testing.assert_array_equal(logits, np.zeros(6, np.float32))
    weights = jnp.arange(6.0)

    def of_gate(params):
        output = call(params, KEY)
        return output.weights @ weights, output

    def of_core(logits):
        draw = gs.gumbel_softmax if k == 1 else functools.partial(gs.gumbel_top_k, k=k)
        sample = draw(KEY, logits, temperature=ANNEALED(0), hard=True)
        return sample @ weights, sample

    moved = jax.tree.map(lambda leaf: leaf + jnp.arange(6.0) / 3, params)
    gradient, output = jax.grad(of_gate, has_aux=True)(moved)
    expected, sample = jax.grad(of_core, has_aux=True)(jnp.arange(6.0) / 3)
    np.testing.assert_array_equal(output.weights, sample)
    np.testing.assert_array_equal(jax.tree.leaves(gradient)[0], expected)
    assert (output.weights.shape, output.index.shape) == ((6,), (k,))
    assert sorted(np.flatnonzero(sample)) == sorted(output.index.tolist())
    chosen = call(moved, None, deterministic=True)
    assert chosen.index.tolist() == [5, 4, 3][:k] and np.isnan(chosen.temperature)


@every_framework
@pytest.mark.parametrize("k", [1, 3])
def test_a_gate_draws_from_the_law_that_it_reports(framework, k):
    """Of one choice; bias, uniform share and mask included, and for k > 1 in that order."""
    options = {"bias": jnp.array([0.0, 2.0, 0.0, 0.0, -1.0, 0.0]), "where": jnp.arange(6) != 3}
    params, call = free_gate(framework, k=k, unimix=0.2, temperature=0.5)
    law = np.exp([0.0, 2, 0, -np.inf, -1, 0])
    law = 0.8 * law / law.sum() + 0.2 * (np.arange(6) != 3) / 5
    keys = jax.random.split(KEY, 4000)
    outputs = jax.jit(jax.vmap(lambda key: call(params, key, **options)))(keys)
    np.testing.assert_allclose(outputs.probs[0], law, rtol=1e-6)
    np.testing.assert_array_equal(outputs.weights.sum(-1), np.full(4000, k))
    included = law if k == 1 else included_of_three(law)
    found = np.asarray(outputs.weights).mean(0)
    deviation = np.sqrt(included * (1 - included) / 4000)
    # Six binomials within 5 standard errors: a false alarm in 3e5.
    assert np.all(np.abs(found - included) <= 5 * deviation)
    assert found[3] == 0


def included_of_three(law):
    """The probability that each class is among three drawn without replacement, enumerated."""
    included = np.zeros(len(law))
    for drawn in itertools.permutations(range(len(law)), 3):
        left, probability = 1.0, 1.0
        for choice in drawn:
            probability *= law[choice] / left if law[choice] else 0
            left -= law[choice]
        included[list(drawn)] += probability
    return included


@every_framework
def test_a_gate_refuses_an_input_that_is_no_feature_vector(framework):
    built, params, state = started(framework, "GumbelGate")
    for x in (jnp.zeros(()), jnp.zeros((4, 6), int)):
        with pytest.raises((TypeError, ValueError), match=r"GumbelGate.*: x must"):
            built.train(params, state, KEY, x)
    if framework.name == "nnx":  # the others name the parameter that has another shape
        with pytest.raises(ValueError, match=r"in_features=6.*\(4, 5\)"):
            built.train(params, state, KEY, jnp.zeros((4, 5)))
        with pytest.raises(ValueError, match=r"in_features=6 and takes x of shape"):
            built.train(params, state, KEY, None)
        with pytest.raises(ValueError, match=r"in_features=None and takes no input"):
            framework.api.GumbelGate(6, rngs=nnx.Rngs(0))(inputs())
