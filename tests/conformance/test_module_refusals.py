"""Refusals of every module in every framework: they name the module, and what is wrong."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import KEY, OPTIONS, every_framework, every_module
from frameworks import (
    Linen,
    inputs,
    logits_of,
    model,
    sample_of,
)
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gs_modules as gs

NAMES = {
    "nnx": "{module}",
    "linen": "{module} at {module}_0",
    "haiku": "{module} at {snake}",
}


def name_of(framework, module):
    snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in module).strip("_")
    return NAMES[framework.name].format(module=module, snake=snake)


@every_module
@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"where": jnp.ones(5, bool)}, r"where of shape \(5,\) does not broadcast"),
        ({"where": jnp.ones(6)}, "where must be boolean"),
        ({"temperature": jnp.ones(7)}, "temperature of shape"),
        ({"temperature": -1.0}, "temperature must be positive"),
        ({"deterministic": 1}, "deterministic must be a Python bool"),
        ({"step": 1.5}, "step must be"),
        ({"step": jnp.array([[1], [2]])}, r"step must be a single integer, .* shape \(2, 1\)"),
    ],
    ids=str,
)
def test_a_refusal_begins_with_the_class_and_the_path_of_the_module(framework, module, call, said):
    built = model(framework, module, **OPTIONS)
    params, state = built.init(KEY, inputs())
    with pytest.raises((TypeError, ValueError), match=rf"^{name_of(framework, module)}: {said}"):
        built.train(params, state, KEY, inputs(), **call)


@every_framework
@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"k": 7}, ValueError, r"k must be in 1 \.\. 6, got 7"),
        ({"k": 0}, ValueError, r"k must be in 1 \.\. 6, got 0"),
        ({"k": 2.0}, TypeError, "k must be an integer, got 2.0"),
        ({"num_choices": 0}, ValueError, r"num_choices must be in 1"),
        ({"num_choices": "6"}, TypeError, "num_choices must be an integer"),
        ({"unimix": 1.0}, ValueError, r"unimix.*\[0, 1\), got 1\.0"),
        ({"unimix": -0.1}, ValueError, r"unimix.*\[0, 1\), got -0\.1"),
        ({"unimix": "some"}, TypeError, "unimix must be a number, got 'some'"),
        ({"dtype": jnp.int32}, TypeError, "dtype must be floating-point, got int32"),
        (
            {"k": 2, "estimator": gs.ReinMax()},
            ValueError,
            r"k = 2.*gumbel_top_k, not by ReinMax\(\)",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_a_gate_is_refused_by_name(framework, options, error, said):
    with pytest.raises(error, match=rf"^GumbelGate.*: {said}"):
        model(framework, "GumbelGate", **options).init(KEY, inputs())


@every_framework
def test_all_candidates_masked_and_nan_features_give_the_documented_values(framework):
    built = model(framework, "GumbelGate", **OPTIONS)
    params, state = built.init(KEY, inputs())
    x = inputs().at[1, 0].set(jnp.nan)
    where = jnp.ones((4, 6), bool).at[2].set(False)
    branches = [jnp.full((4, 2), float(n)) for n in range(6)]
    for deterministic in (False, True):
        call = {"where": where, "deterministic": deterministic}
        (output,), _ = built.train(params, state, KEY, x, **call)
        combined = output.combine(branches)
        np.testing.assert_array_equal(output.index[jnp.array([1, 2])], [[-1], [-1]])
        assert np.all(np.isnan(output.weights[1])) and np.all(np.isnan(combined[1]))
        assert np.all(output.weights[2] == 0) and np.all(combined[2] == 0)
        assert np.all(np.isfinite(combined[jnp.array([0, 3])]))
        assert np.all(output.index[jnp.array([0, 3])] >= 0)


@every_framework
def test_the_dense_layer_and_its_law_are_float32_in_a_bfloat16_model(framework):
    built = model(framework, "GumbelGate", dtype=jnp.bfloat16, temperature=0.5)
    params, state = built.init(KEY, inputs(jnp.bfloat16))
    (output,), _ = built.train(params, state, KEY, inputs(jnp.bfloat16))
    assert output.weights.dtype == jnp.bfloat16
    assert output.logits.dtype == output.probs.dtype == jnp.float32
    np.testing.assert_array_equal(output.logits, inputs(jnp.bfloat16).astype(jnp.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}


@every_module
def test_the_index_of_half_precision_weights_is_that_before_they_were_rounded(framework, module):
    """At temperature 10 a hundredth of bfloat16 rows have two equal largest weights."""
    if module == "GumbelSoftmax":
        pytest.skip("has no index")
    built = model(framework, module, **OPTIONS | {"temperature": 10.0, "dtype": jnp.bfloat16})
    x = jax.random.normal(KEY, (2000, 6), jnp.bfloat16)
    params, state = built.init(KEY, x)
    (output,), _ = built.train(params, state, None, x, key=KEY)
    expected = gs.gumbel_max(KEY, logits_of(module, x)).reshape(output.index.shape)
    np.testing.assert_array_equal(output.index, expected)
    assert sample_of(output).dtype == jnp.bfloat16
    rounded = np.asarray(sample_of(output).argmax(-1)).reshape(expected.shape)
    assert np.mean(rounded != expected) > 0.001  # the test can fail


def test_linen_set_step_leaves_what_is_no_clock():
    variables = {"anneal": {"gate": {"step": jnp.int32(1)}, "beta": jnp.float32(0.25)}}
    found = gs.linen.set_step(variables, 7)["anneal"]
    assert found["gate"]["step"] == 7
    assert (found["beta"], found["beta"].dtype) == (0.25, jnp.float32)


class HalfPrecision:
    """A mixed-precision policy, with the methods that Haiku asks for."""

    def cast_to_compute(self, tree):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree)

    cast_to_param = cast_to_output = cast_to_compute


def test_haiku_a_policy_of_mixed_precision_leaves_the_gate_in_float32():
    gate = hk.transform(lambda x: gs.haiku.GumbelGate(3)(x, deterministic=True))
    params = gate.init(KEY, inputs())
    expected = gate.apply(params, None, inputs()).logits
    hk.mixed_precision.set_policy(hk.Linear, HalfPrecision())
    try:
        found = gate.apply(params, None, inputs()).logits
    finally:
        hk.mixed_precision.clear_policy(hk.Linear)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("k", [1, 2])
def test_a_gate_measures_itself_on_an_explicit_mesh(k):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
    built = model(Linen, "GumbelGate", k=k)
    x = jnp.concatenate([inputs(), -inputs()])
    params, state = built.init(KEY, x)

    def measured(x):
        (output,), _ = built.train(params, state, None, x, key=KEY)
        losses = (output.load_balance_loss(), output.importance_loss(), output.entropy())
        return output.usage().counts, losses

    counts, losses = measured(x)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(x, NamedSharding(mesh, P("data")))
        found = jax.jit(measured)(sharded)
    np.testing.assert_array_equal(found[0], counts)
    np.testing.assert_allclose(found[1], losses, rtol=1e-5)
