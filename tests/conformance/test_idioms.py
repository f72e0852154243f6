"""What only one framework has: streams and views in NNX, collections in Linen, two transforms."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from frameworks import NNX, REQUIRED, Haiku, Linen, inputs, model, required, sample_of

import gs_modules as gs

KEY = jax.random.key(3)
ANNEALED = gs.Linear(2.0, 0.5, 100)

every_module = pytest.mark.parametrize("module", REQUIRED)


def built(framework, module, **options):
    return getattr(framework.api, module)(
        **required(framework, module), temperature=ANNEALED, **options
    )


def is_drawn(output):
    """Whether a relaxed sample was drawn, not the one-hot argmax."""
    return not np.all(np.isin(sample_of(output), [0, 1]))


# --- NNX ---------------------------------------------------------------------------------------


@every_module
def test_nnx_train_eval_and_view_set_the_mode(module):
    layer = built(NNX, module, rngs=nnx.Rngs(0), estimator=gs.Pathwise())
    x = inputs()
    assert is_drawn(layer(x))
    layer.eval()
    assert not is_drawn(layer(x)) and is_drawn(layer(x, deterministic=False))
    layer.train()
    assert is_drawn(layer(x))
    view = nnx.view(layer, deterministic=True)
    assert not is_drawn(view(x)) and is_drawn(layer(x))
    assert is_drawn(nnx.view(view, deterministic=False)(x))
    assert layer.step[...] == view.step[...] == 5  # a view shares the clock


@every_module
def test_nnx_falls_back_to_the_default_stream_and_refuses_to_have_neither(module):
    x, options = inputs(), {"estimator": gs.Pathwise()}
    named = built(NNX, module, rngs=nnx.Rngs(params=1, gumbel=0), **options)
    fallen_back = built(NNX, module, rngs=nnx.Rngs(default=0, params=1), **options)
    rngs = nnx.Rngs(params=1, noise=0)
    layers = [named, fallen_back, built(NNX, module, rngs=rngs, rng_collection="noise", **options)]
    stream = nnx.Rngs(gumbel=0).gumbel
    if module == "GumbelGate":  # one stream has no key for the parameters
        with pytest.raises(ValueError, match=r"rngs=nnx\.Rngs\(0\)"):
            built(NNX, module, rngs=stream)
    else:
        layers.append(built(NNX, module, rngs=stream, **options))
    samples = [sample_of(layer(x)) for layer in layers]
    for sample in samples[1:]:
        np.testing.assert_array_equal(samples[0], sample)
    with pytest.raises(ValueError, match=r"'gumbel'.*'default'.*nnx\.Rngs"):
        built(NNX, module, rngs=nnx.Rngs(params=0))
    with pytest.raises(TypeError, match="rngs"):
        built(NNX, module, rngs=0)


@every_module
def test_nnx_layers_built_from_one_stream_draw_independently(module):
    rngs = nnx.Rngs(0)
    layers = [built(NNX, module, rngs=rngs, estimator=gs.Pathwise()) for _ in range(2)]
    first, second = (sample_of(layer(inputs())) for layer in layers)
    assert not np.any(first == second)


@every_module
@pytest.mark.parametrize(
    "call",
    [
        {"temperature": -1.0},
        {"temperature": jnp.ones(7)},
        {"where": jnp.ones(7, bool)},
        {"step": 1.5},
        {"deterministic": "no"},
        {"key": 0.5},
    ],
    ids=str,
)
def test_nnx_a_refused_call_moves_neither_the_clock_nor_the_stream(module, call):
    layer = built(NNX, module, rngs=nnx.Rngs(0), estimator=gs.Pathwise())
    layer(inputs())
    twin = nnx.clone(layer)
    with pytest.raises((TypeError, ValueError)):
        layer(inputs(), **call)
    assert layer.step[...] == 1
    np.testing.assert_array_equal(sample_of(layer(inputs())), sample_of(twin(inputs())))


def test_nnx_the_count_of_an_optimizer_drives_every_clock_under_jit():
    gate = NNX.api.GumbelGate(4, in_features=5, temperature=ANNEALED, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(gate, optax.sgd(0.1), wrt=nnx.Param)

    @nnx.jit
    def update(gate, optimizer):
        loss = nnx.grad(lambda gate: gate(jnp.ones((2, 5))).load_balance_loss())
        optimizer.update(gate, loss(gate))
        NNX.api.set_step(gate, optimizer.step)  # a variable, of uint32

    for step in (1, 2):
        update(gate, optimizer)
        assert gate.step[...] == step


def test_nnx_set_step_takes_a_step_for_each_of_stacked_clocks():
    @nnx.vmap
    def build(key):
        return NNX.api.GumbelSoftmax(temperature=ANNEALED, rngs=nnx.Rngs(gumbel=key))

    layers = build(jax.random.split(KEY, 3))
    NNX.api.set_step(layers, jnp.array([5, 0, 7]))
    np.testing.assert_array_equal(layers.step[...], [5, 0, 7])


@every_module
def test_nnx_a_clock_of_another_dtype_uses_no_key(module):
    layer = built(NNX, module, rngs=nnx.Rngs(0), estimator=gs.Pathwise())
    twin = nnx.clone(layer)
    layer.step = gs.nnx.AnnealStep(jnp.float32(0))
    with pytest.raises(TypeError, match="int32"):
        layer(inputs())
    layer.step = gs.nnx.AnnealStep(jnp.int32(0))
    np.testing.assert_array_equal(sample_of(layer(inputs())), sample_of(twin(inputs())))


@every_module
def test_nnx_transforms_keep_the_clock_and_the_stream(module):
    layer = built(NNX, module, rngs=nnx.Rngs(0), estimator=gs.Pathwise())
    twin = nnx.clone(layer)

    @nnx.jit
    def draw(layer, x):
        return sample_of(layer(x))

    @nnx.jit
    def gradient(layer, x):
        return nnx.grad(lambda layer, x: jnp.sum(draw(layer, x)[..., 0]), argnums=1)(layer, x)

    compiled = [draw(layer, inputs()) for _ in range(2)]
    for sample in compiled:
        np.testing.assert_allclose(sample, sample_of(twin(inputs())), rtol=0, atol=1e-6)
    assert not np.any(compiled[0] == compiled[1])
    assert np.any(gradient(layer, inputs()) != 0)
    assert layer.step[...] == 3 and twin.step[...] == 2
    nnx.jit(NNX.api.set_step)(layer, 9)
    assert layer.step[...] == 9 and layer.step.dtype == jnp.int32


@every_module
def test_nnx_refuses_a_traced_mode_under_nnx_jit(module):
    layer = built(NNX, module, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match=r"deterministic.*static_arg"):
        nnx.jit(lambda layer, mode: layer(inputs(), deterministic=mode))(layer, True)


# --- Linen -------------------------------------------------------------------------------------


@every_module
def test_linen_never_falls_back_to_the_stream_of_the_parameters(module):
    layer = built(Linen, module)
    variables = layer.init(KEY, inputs())
    for rngs in (None, {}, {"params": KEY}, KEY):
        with pytest.raises(ValueError, match=rf"{module}.*'gumbel'"):
            layer.apply(variables, inputs(), rngs=rngs, mutable=["anneal"])
    renamed = built(Linen, module, rng_collection="noise")
    renamed.apply(variables, inputs(), rngs={"noise": KEY}, mutable=["anneal"])
    with pytest.raises(ValueError, match="'noise'"):
        renamed.apply(variables, inputs(), rngs={"gumbel": KEY}, mutable=["anneal"])


@every_module
def test_linen_refuses_a_clock_that_cannot_tick_and_a_clock_that_is_not_there(module):
    layer = built(Linen, module)
    variables = layer.init(KEY, inputs())
    parameters = {"params": variables.get("params", {})}
    rngs = {"gumbel": KEY}
    for call in ({}, {"temperature": 0.5}, {"key": KEY}):
        for mutable in (False, [], ["batch_stats"]):
            with pytest.raises(ValueError, match=rf'{module}.*mutable=\["anneal"\]'):
                layer.apply(variables, inputs(), rngs=rngs, mutable=mutable, **call)
        with pytest.raises(ValueError, match=rf"{module}.*no clock.*'anneal'"):
            layer.apply(parameters, inputs(), rngs=rngs, mutable=["anneal"], **call)
    with pytest.raises(ValueError, match="no clock"):
        layer.apply(parameters, inputs(), rngs=rngs)


@every_module
def test_linen_draws_at_a_given_step_with_an_immutable_clock_or_none(module):
    layer = built(Linen, module, estimator=gs.Pathwise())
    variables = layer.init(KEY, inputs())
    parameters = {"params": variables.get("params", {})}
    drawn = [layer.apply(v, inputs(), key=KEY, step=40) for v in (variables, parameters)]
    expected = layer.apply(variables, inputs(), key=KEY, step=40, mutable=["anneal"])
    assert expected[1]["anneal"]["step"] == 41
    for output in drawn:
        np.testing.assert_array_equal(sample_of(output), sample_of(expected[0]))
    stored = layer.apply(parameters, inputs(), key=KEY, step=40, mutable=["anneal"])[1]
    assert stored["anneal"]["step"] == 41


@every_module
def test_linen_init_makes_the_clock_in_either_mode_and_never_moves_it(module):
    layer = built(Linen, module)
    for call in ({}, {"deterministic": True}, {"step": 7}, {"temperature": 0.5}):
        variables = layer.init(KEY, inputs(), **call)
        assert variables["anneal"]["step"] == 0 and variables["anneal"]["step"].dtype == jnp.int32


def test_linen_set_step_names_the_collections_that_it_found():
    with pytest.raises(ValueError, match=r"'anneal'.*\['params'\]"):
        Linen.api.set_step({"params": {}}, 3)


def test_linen_set_step_keeps_the_shape_of_stacked_clocks():
    variables = {"params": {"w": 1.0}, "anneal": {"a": {"step": jnp.zeros(3, jnp.int32)}}}
    found = Linen.api.set_step(variables, 5)
    np.testing.assert_array_equal(found["anneal"]["a"]["step"], [5, 5, 5])
    assert found["params"] is variables["params"] and set(found) == set(variables)


@every_module
def test_linen_intermediates_are_those_of_the_call_alone(module):
    layer = built(Linen, module)
    variables = layer.init(KEY, inputs())

    def is_of_the_layer(found, _):
        return isinstance(found, type(layer))

    @jax.jit
    def train(variables, key):
        options = {"mutable": ["anneal", "intermediates"], "rngs": {"gumbel": key}}
        return layer.apply(variables, inputs(), capture_intermediates=is_of_the_layer, **options)

    output, state = train(variables, KEY)
    assert list(state["intermediates"]) == ["__call__"]
    np.testing.assert_array_equal(
        sample_of(state["intermediates"]["__call__"][0]), sample_of(output)
    )


# --- Haiku -------------------------------------------------------------------------------------


@every_module
def test_haiku_names_transform_with_state_where_there_is_no_clock(module):
    stateless = model(Haiku, module, temperature=ANNEALED).transformed(hk.transform)
    with pytest.raises(ValueError, match="transform_with_state"):
        stateless.init(KEY, inputs())
    params, _ = model(Haiku, module, temperature=ANNEALED).init(KEY, inputs())
    with pytest.raises(ValueError, match=rf"{module}.*clock.*transform_with_state"):
        stateless.apply(params, KEY, inputs())
    stateful = model(Haiku, module, temperature=ANNEALED).transformed()
    with pytest.raises(ValueError, match=rf"{module}.*clock.*transform_with_state"):
        stateful.apply(params, {}, KEY, inputs())


@every_module
def test_haiku_evaluates_under_a_stateless_transform_and_needs_no_key(module):
    stateless = model(Haiku, module, temperature=ANNEALED).transformed(hk.transform)
    params, _ = model(Haiku, module, temperature=ANNEALED).init(KEY, inputs())
    (output,) = stateless.apply(params, None, inputs(), deterministic=True)
    assert not is_drawn(output)


@every_module
def test_haiku_constant_temperatures_need_no_state(module):
    transformed = model(Haiku, module, temperature=0.5).transformed(hk.transform)
    transformed.apply(transformed.init(KEY, inputs()), KEY, inputs())


def test_haiku_set_step_names_the_modules_that_it_found_and_keeps_other_state():
    with pytest.raises(ValueError, match=r"\['norm'\]"):
        Haiku.api.set_step({"norm": {"mean": jnp.zeros(())}}, 3)
    state = {"norm": {"mean": jnp.zeros(2)}, "gate": {"step": jnp.int32(1), "other": 4.0}}
    found = Haiku.api.set_step(state, 3)
    assert found["gate"]["step"] == 3 and found["gate"]["other"] == 4.0
    assert found["norm"]["mean"] is state["norm"]["mean"]
