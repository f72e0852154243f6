"""The traps of the frameworks: where clocks stand still, noise repeats or state is lost."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from checks import ANNEALED, KEY, OPTIONS, assert_clocks, every_module, keys
from flax import linen as nn
from flax import nnx
from frameworks import (
    CLASSES,
    FRAMEWORKS,
    LATENTS,
    NNX,
    REQUIRED,
    inputs,
    logits_of,
    model,
    required,
    sample_of,
)
from jax import export
from lifted import LIFTED, TIMES, WAYS, Applied

import gs_modules as gs

# --- noise and ticks ---------------------------------------------------------------------------


@pytest.mark.slow
@every_module
def test_a_thousand_draws_of_steps_and_layers_are_a_thousand_noises(framework, module):
    built = model(framework, module, 10, **OPTIONS)
    x = jnp.zeros((1, LATENTS * CLASSES))
    params, state = built.init(KEY, x)
    train = jax.jit(built.train)
    drawn = []
    for key in keys(100):
        outputs, state = train(params, state, key, x)
        drawn += [np.asarray(sample_of(output)).ravel() for output in outputs]
    assert_clocks(built, state, [100] * 10)
    noises = np.stack(drawn)
    assert len(np.unique(noises, axis=0)) == 1000
    # No number of one draw at its place in another either: layers share no part of their noise.
    assert min(len(np.unique(column)) for column in noises.T) > 990


@every_module
def test_the_noise_of_init_is_not_that_of_step_0(framework, module):
    built = model(framework, module, **OPTIONS)
    x = jnp.zeros((1, LATENTS * CLASSES))
    of_init = built.drawn_in_init(KEY, x)
    params, state = built.init(KEY, x)
    first = built.train(params, state, jax.random.fold_in(KEY, 0), x)[0]
    for sample in map(sample_of, of_init):
        assert not np.any(np.asarray(sample) == np.asarray(sample_of(first[0])))
    assert len(of_init) == (0 if framework is NNX else 1)


@pytest.mark.parametrize(
    ("framework", "module"),
    [
        # What is lifted holds clock and streams in one class; the gate has parameters besides.
        pytest.param(framework, module, marks=[] if module == "GumbelGate" else pytest.mark.slow)
        for framework in FRAMEWORKS
        for module in REQUIRED
    ],
    ids=lambda value: getattr(value, "name", value),
)
@pytest.mark.parametrize("way", WAYS)
def test_a_lifted_module_ticks_and_draws_as_documented(framework, module, way):
    def make(**idioms):
        options = required(framework, module) | OPTIONS | idioms
        return getattr(framework.api, module)(**options)

    samples, clocks = LIFTED[framework.name][way](make, inputs(), keys(2))
    # A scan over time of one module ticks at each time where the clock is carried: not in Linen.
    ticks = TIMES if way == "times" and framework.name != "linen" else 1
    for step, clock in enumerate(clocks):
        assert clock.dtype == jnp.int32
        np.testing.assert_array_equal(clock, np.full(clock.shape, step * ticks))
    assert clocks[0].shape == ((3,) if way == "layers" else ())
    # Of one input, every layer, time, example or shard of both steps draws differently.
    flat = np.concatenate([np.asarray(sample).reshape(len(sample), -1) for sample in samples])
    assert len(flat) == 2 * {"remat": 1, "layers": 3, "times": 3, "examples": 4, "shards": 4}[way]
    assert len(np.unique(flat, axis=0)) == len(flat)


@every_module
@pytest.mark.parametrize("way", ["jit", "value_and_grad", "checkpoint"])
def test_one_tick_for_a_training_call_and_none_in_init_and_evaluation(framework, module, way):
    built = model(framework, module, **OPTIONS)
    params, state = built.init(KEY, inputs())
    assert_clocks(built, state, [0])

    def loss(x, state, key):
        (output,), state = built.train(params, state, key, x)
        return jnp.sum(jnp.sin(sample_of(output))), state

    step = {
        "jit": jax.jit(loss),
        "value_and_grad": jax.jit(lambda *a: jax.value_and_grad(loss, has_aux=True)(*a)[0]),
        "checkpoint": lambda *a: jax.value_and_grad(jax.checkpoint(loss), has_aux=True)(*a)[0],
    }[way]
    for count, key in enumerate(keys(3)):
        _, state = step(inputs(), state, key)
        assert_clocks(built, state, [count + 1])
        jax.jit(built.evaluate)(params, state, inputs())
        assert_clocks(built, state, [count + 1])


@every_module
def test_a_clock_counts_on_where_float32_would_stop(framework, module):
    built = model(framework, module, **OPTIONS)
    params, state = built.init(KEY, inputs())
    state = built.set_step(params, state, 2**24)
    for count in range(1, 4):
        state = built.train(params, state, KEY, inputs())[1]
        assert_clocks(built, state, [2**24 + count])


@every_module
@pytest.mark.usefixtures("promotion_as_users_have_it")
def test_under_gradient_accumulation_the_clock_follows_the_optimizer(framework, module):
    built = model(framework, module, **OPTIONS)
    params, state = built.init(KEY, inputs())
    optimizer = optax.MultiSteps(optax.sgd(0.1), every_k_schedule=4)
    scale = jnp.float32(1)
    opt_state = optimizer.init(scale)

    @jax.jit
    def train(scale, opt_state, state):
        def loss(scale, state):
            state = built.set_step(params, state, opt_state.gradient_step)
            (output,), state = built.train(params, state, None, scale * inputs(), key=KEY)
            return jnp.sum(jnp.sin(sample_of(output))), (sample_of(output), state)

        gradient, (sample, state) = jax.grad(loss, has_aux=True)(scale, state)
        updates, opt_state = optimizer.update(gradient, opt_state, scale)
        state = built.set_step(params, state, opt_state.gradient_step)
        return optax.apply_updates(scale, updates), opt_state, state, sample

    for microbatch in range(12):
        logits = logits_of(module, scale * inputs())
        expected = gs.gumbel_softmax(KEY, logits, ANNEALED(microbatch // 4))
        scale, opt_state, state, sample = train(scale, opt_state, state)
        np.testing.assert_allclose(sample, expected, atol=2e-6)
        assert_clocks(built, state, [(microbatch + 1) // 4])


@every_module
def test_a_schedule_changed_between_steps_does_not_trace_again(framework, module):
    built = model(framework, module, **OPTIONS)
    params, state = built.init(KEY, inputs())
    traces = []

    @jax.jit
    def train(params, state, temperature):
        traces.append(temperature)
        return built.train(params, state, None, inputs(), key=KEY, temperature=temperature)

    for schedule in (ANNEALED, gs.Cosine(3.0, 0.2, 50), gs.Constant(0.7)):
        (output,), state = train(params, state, schedule(20))
        expected = gs.gumbel_softmax(KEY, logits_of(module, inputs()), schedule(20))
        np.testing.assert_allclose(sample_of(output), expected, atol=2e-6)
    assert len(traces) == 1
    assert_clocks(built, state, [3])


@every_module
def test_a_module_built_anew_with_equal_options_does_not_trace_again(framework, module):
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def train(built, params, state):
        traces.append(built)
        return built.train(params, state, KEY, inputs())[1]

    for _ in range(3):
        estimator = gs.DecoupledStraightThrough(0.8)
        built = model(framework, module, temperature=gs.Linear(2.0, 0.5, 9), estimator=estimator)
        params, state = built.init(KEY, inputs())
        if framework is NNX:  # the graph definition, a static value, must be equal as well
            assert jax.tree.structure(state) == jax.tree.structure(built.init(KEY, inputs())[1])
        train(built, params, state)
    assert len(traces) == 1


def test_linen_a_clock_carried_over_time_ticks_at_each_and_cannot_begin_in_init():
    class Times(nn.Module):
        @nn.compact
        def __call__(self, xs):
            options = {"variable_carry": "anneal", "split_rngs": {"gumbel": True}}
            times = nn.scan(Applied, **options)
            return times(lambda: gs.linen.GumbelSoftmax(**OPTIONS))(0, xs)[1]

    xs = jnp.stack([inputs()] * 3)
    with pytest.raises(TypeError, match="carry"):
        Times().init({"gumbel": KEY}, xs)
    given = {"anneal": {"ScanApplied_0": {"GumbelSoftmax_0": {"step": jnp.int32(0)}}}}
    samples, state = Times().apply(given, xs, rngs={"gumbel": KEY}, mutable=["anneal"])
    assert jax.tree.leaves(state) == [3]
    assert len(np.unique(np.asarray(samples).reshape(3, -1), axis=0)) == 3


# --- one behaviour in three frameworks ---------------------------------------------------------


def transplanted(params):
    """The same numbers for parameters of one shape, whatever the framework calls them."""
    return jax.tree.map(
        lambda leaf: jax.random.normal(jax.random.key(leaf.ndim), leaf.shape, leaf.dtype), params
    )


def of_core(module, params, x):
    """What a module with ``params`` draws at the first step, by the core alone."""
    temperature = ANNEALED(0)
    if module == "GumbelGate":
        kernel, bias = sorted(jax.tree.leaves(params), key=lambda leaf: -leaf.ndim)
        x = x.astype(jnp.float32) @ kernel + bias[None]
    return gs.gumbel_softmax(KEY, logits_of(module, x), temperature, hard=True)


@pytest.mark.slow
@pytest.mark.parametrize("module", REQUIRED)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda dtype: dtype.__name__)
def test_transplanted_parameters_give_the_same_numbers_in_every_framework(module, dtype):
    x = inputs(dtype)
    results = []
    for framework in FRAMEWORKS:
        built = model(framework, module, temperature=ANNEALED)
        params, state = built.init(KEY, x)
        params = transplanted(params)

        def loss(params, x, built=built, state=state):
            (output,), _ = built.train(params, state, None, x, key=KEY)
            sample = sample_of(output)
            weight = jnp.arange(sample.size, dtype=sample.dtype).reshape(sample.shape)
            return jnp.sum(sample * weight), output

        gradients, output = jax.grad(loss, (0, 1), has_aux=True)(params, x)
        np.testing.assert_array_equal(sample_of(output), of_core(module, params, x))
        of_params = sorted(jax.tree.leaves(gradients[0]), key=lambda leaf: leaf.ndim)
        results.append([*jax.tree.leaves(output), *of_params, gradients[1]])
    for other in results[1:]:
        for mine, theirs in zip(results[0], other, strict=True):
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs)
    assert np.any(results[0][-1] != 0)


# --- checkpoints -------------------------------------------------------------------------------


def abstract(tree):
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)


@every_module
def test_a_checkpoint_continues_with_the_same_clock_and_the_same_noise(framework, module, tmp_path):
    built = model(framework, module, 2, **OPTIONS)
    params, state = built.init(KEY, inputs())

    def steps(params, state, first, count):
        """NNX draws from its own streams, the others from keys of the step."""
        samples = []
        for step in range(first, first + count):
            key = None if framework is NNX else jax.random.fold_in(KEY, step)
            outputs, state = built.train(params, state, key, inputs())
            samples += map(sample_of, outputs)
        return samples, state

    _, state = steps(params, state, 0, 3)
    saved = {"params": params, "state": state[1] if framework is NNX else state}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "3", saved)
        checkpointer.wait_until_finished()
        new_params, new_state = built.init(jax.random.key(99), inputs())
        target = {"params": new_params, "state": new_state[1] if framework is NNX else new_state}
        restored = checkpointer.restore(tmp_path / "3", abstract(target))
    other = restored["state"]
    new_state = (new_state[0], other) if framework is NNX else other
    assert_clocks(built, new_state, [3, 3])
    expected, _ = steps(params, state, 3, 2)
    found, after = steps(restored["params"], new_state, 3, 2)
    for sample, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(sample, wanted)
    assert_clocks(built, after, [5, 5])


@every_module
def test_parameters_restored_without_the_clock_are_reported_by_name(framework, module):
    built = model(framework, module, **OPTIONS)
    params, _ = built.init(KEY, inputs())
    if framework is NNX:
        layer = getattr(NNX.api, module)(**required(NNX, module), **OPTIONS, rngs=nnx.Rngs(0))
        with pytest.raises(ValueError, match=r"lacks the clock step.*nnx\.state\(model\)"):
            NNX.api.restore(layer, nnx.state(layer, nnx.Param))
    else:
        with pytest.raises(ValueError, match=rf"{module}.*no clock"):
            built.train(params, {}, KEY, inputs())


# --- export ------------------------------------------------------------------------------------

RUN_EXPORTED = """
import sys
from pathlib import Path
import jax, numpy as np
from jax import export
for path in sorted(Path(sys.argv[1]).glob("*.exported")):
    x = np.load(path.with_suffix(".x.npy"))
    np.save(path.with_suffix(".y.npy"), export.deserialize(path.read_bytes()).call(x))
assert not {"gs_modules", "flax", "haiku"} & set(sys.modules)
"""


def test_an_exported_deterministic_model_runs_without_the_library(tmp_path):
    expected = {}
    for framework in FRAMEWORKS:
        for module in REQUIRED:
            built = model(framework, module, **OPTIONS)
            params, state = built.init(KEY, inputs())

            @jax.jit
            def forward(x, built=built, params=params, state=state):
                return sample_of(built.evaluate(params, state, 2 * x)[0])

            exported = export.export(forward)(jax.ShapeDtypeStruct((4, 6), jnp.float32))
            assert "threefry" not in exported.mlir_module()
            name = f"{framework.name}-{module}"
            (tmp_path / f"{name}.exported").write_bytes(exported.serialize())
            np.save(tmp_path / f"{name}.x.npy", inputs())
            expected[name] = forward(inputs())
    command = [sys.executable, "-c", RUN_EXPORTED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(expected) == len(FRAMEWORKS) * len(REQUIRED)
    for name, wanted in expected.items():
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.y.npy"), wanted)
