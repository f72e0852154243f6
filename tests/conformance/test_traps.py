"""The traps of the frameworks: where clocks stand still, noise repeats or state is lost."""

import functools
import subprocess
import sys

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import linen as nn
from flax import nnx
from frameworks import (
    CLASSES,
    FRAMEWORKS,
    LATENTS,
    NNX,
    REQUIRED,
    Linen,
    inputs,
    logits_of,
    model,
    required,
    sample_of,
)
from jax import export
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from lifted import LIFTED, TIMES, WAYS, Applied
from test_modules import assert_clocks, every_framework, every_module

import gs_modules as gs

KEY = jax.random.key(3)
ANNEALED = gs.Linear(2.0, 0.5, 100)
OPTIONS = {"temperature": ANNEALED, "estimator": gs.Pathwise()}


def keys(count):
    return [jax.random.fold_in(KEY, step) for step in range(count)]


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


# --- NNX: what raw jax transforms drop ---------------------------------------------------------


def nnx_layer(module, **options):
    return getattr(NNX.api, module)(**required(NNX, module), **options, rngs=nnx.Rngs(0))


def draw(layer, x):
    return sample_of(layer(x))


DROP_UPDATES = [jax.jit(draw), jax.vmap(draw, (None, 0)), jax.checkpoint(draw)]
KEEP_UPDATES = [draw, nnx.jit(draw), nnx.remat(draw)]


@pytest.mark.parametrize("module", REQUIRED)
@pytest.mark.parametrize("options", [OPTIONS, {}], ids=["annealed", "constant"])
def test_assert_ticks_finds_the_transforms_that_drop_updates(module, options):
    layer = nnx_layer(module, **options)
    before = nnx.clone(layer)
    for fn in KEEP_UPDATES:
        NNX.api.assert_ticks(fn, layer, inputs())
    for fn in DROP_UPDATES:
        with pytest.raises(AssertionError, match=rf"did not tick: {module} at the top.*nnx\.jit"):
            NNX.api.assert_ticks(fn, layer, inputs())
    with pytest.raises(AssertionError, match=r"model\.train\(\)"):
        NNX.api.assert_ticks(lambda layer, x: layer(x, deterministic=True), layer, inputs())
    after, expected = (nnx.to_pure_dict(nnx.state(model)) for model in (layer, before))
    jax.tree.map(np.testing.assert_array_equal, *map(_plain, (after, expected)))


def _plain(tree):
    def plain(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(leaf) if is_key else leaf

    return jax.tree.map(plain, tree)


@pytest.mark.parametrize("options", [OPTIONS, {}], ids=["annealed", "constant"])
def test_assert_ticks_sees_through_steps_that_set_the_key_and_the_clock(options):
    layer = nnx_layer("GumbelGate", **options)
    NNX.api.set_key(layer, KEY)
    drop = jax.jit(draw)

    def step(call, set_step=False):
        def fn(layer, x):
            NNX.api.set_key(layer, KEY)
            if set_step:
                NNX.api.set_step(layer, 0)
            call(layer, x)

        return fn

    ways = [False, True] if options else [False]
    for _ in range(2):
        for set_step in ways:
            NNX.api.assert_ticks(nnx.jit(step(draw, set_step)), layer, inputs())
            with pytest.raises(AssertionError, match="did not tick"):
                NNX.api.assert_ticks(step(drop, set_step), layer, inputs())
        draw(layer, inputs())


def test_assert_ticks_names_each_module_by_its_path_and_refuses_a_model_without_any():
    model = nnx.Dict(gate=nnx_layer("GumbelGate"), latent=nnx_layer("CategoricalLatent"))
    with pytest.raises(AssertionError, match="GumbelGate at gate; use"):
        NNX.api.assert_ticks(lambda model, x: model["latent"](x), model, inputs())
    with pytest.raises(ValueError, match="no module of gs_modules"):
        NNX.api.assert_ticks(lambda model: None, nnx.Linear(2, 2, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("module", REQUIRED)
def test_nnx_split_merge_and_view_keep_clock_and_noise(module):
    layer = nnx_layer(module, **OPTIONS)
    twin = nnx.clone(layer)
    graph, state = nnx.split(layer)
    merged = nnx.merge(graph, state)
    for _ in range(2):
        np.testing.assert_array_equal(sample_of(merged(inputs())), sample_of(twin(inputs())))
    assert merged.step[...] == twin.step[...] == 2


def test_nnx_restore_puts_a_whole_state_back_and_names_what_does_not_fit(tmp_path):
    def build():
        rngs = nnx.Rngs(0)
        return nnx.Dict(
            gates=nnx.List([nnx_layer("GumbelGate", **OPTIONS) for _ in range(2)]),
            head=nnx.Linear(6, 2, rngs=rngs),
        )

    model, fresh = build(), build()
    for gate in model["gates"]:
        gate(inputs())
    saved = nnx.to_pure_dict(nnx.state(model))
    with_names = jax.tree.map(lambda leaf: leaf, saved)
    with_names["gates"] = {str(number): gate for number, gate in saved["gates"].items()}
    with ocp.StandardCheckpointer() as checkpointer:  # restored without a target
        checkpointer.save(tmp_path / "state", nnx.state(model))
        checkpointer.wait_until_finished()
        raw = checkpointer.restore(tmp_path / "state")
    for state in (nnx.state(model), saved, with_names, raw):
        restored = build()
        NNX.api.restore(restored, state)
        for gate, wanted in zip(restored["gates"], nnx.clone(model)["gates"], strict=True):
            assert gate.step[...] == 1
            np.testing.assert_array_equal(gate(inputs()).weights, wanted(inputs()).weights)
    wrong = jax.tree.map(lambda leaf: leaf, saved)
    del wrong["gates"][0]["step"], wrong["gates"][1]["rngs"]["count"], wrong["head"]["bias"]
    wrong["head"]["kernel"] = jnp.zeros((6, 3))
    wrong["tail"] = jnp.zeros(1)
    wrong["gates"][0]["rngs"]["key"], wrong["gates"][1]["step"] = 0, "seven"
    with pytest.raises(ValueError) as refusal:
        NNX.api.restore(fresh, wrong)
    for said in (
        "lacks the clock gates/0/step",
        "lacks the stream gates/1/rngs/count",
        "lacks the Param head/bias",
        "has head/kernel as float32[6,3], the model as float32[6,2]",
        "has tail, which the model has not",
        "has gates/0/rngs/key as int32[], the model as key<fry>[]",
        "has gates/1/step as str, the model as int32[]",
    ):
        assert said in str(refusal.value)
    assert fresh["gates"][0].step[...] == 0  # nothing was changed
    with pytest.raises(TypeError, match=r"restore: state must be nnx\.state"):
        NNX.api.restore(fresh, fresh)


def test_nnx_set_key_gives_each_stream_a_key_of_its_own_and_makes_noise_a_function_of_it():
    def build():
        layers = [nnx_layer("GumbelSoftmax", estimator=gs.Pathwise()) for _ in range(3)]
        return nnx.Dict(layers=nnx.List(layers), dropout=nnx.Dropout(0.5, rngs=nnx.Rngs(0)))

    def draw(model, key):
        NNX.api.set_key(model, key)
        return [*(layer(inputs()) for layer in model["layers"]), model["dropout"](inputs())]

    model = build()
    first, again = draw(model, KEY), draw(model, jax.random.key_data(KEY))
    compiled = nnx.jit(draw)(build(), KEY)
    for sample, repeated, wanted in zip(first, again, compiled, strict=True):
        np.testing.assert_array_equal(sample, repeated)
        np.testing.assert_allclose(sample, wanted, atol=1e-6)
    assert len(np.unique(np.stack(first[:3]).reshape(3, -1), axis=0)) == 3
    other = draw(model, jax.random.key(4))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    with pytest.raises(TypeError, match="set_key: key must be a random key"):
        NNX.api.set_key(model, 0)
    with pytest.raises(ValueError, match="no stream"):
        NNX.api.set_key(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), KEY)


# --- refusals name the module ------------------------------------------------------------------

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
