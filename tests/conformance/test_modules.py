"""Every module in every framework: its clock, its randomness, its modes and its options."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import (
    ANNEALED,
    KEY,
    LAST,
    assert_clocks,
    assert_drawn_at,
    every_module,
    relaxed,
    started,
)
from frameworks import (
    CLASSES,
    LATENTS,
    inputs,
    logits_of,
    model,
    sample_of,
)

import gs_modules as gs

# --- the clock ---------------------------------------------------------------------------------


@every_module
def test_a_training_call_uses_its_clock_and_then_ticks_once(framework, module):
    built, params, state = started(framework, module)
    assert_clocks(built, state, [0])
    for step in range(3):
        (output,), state = built.train(params, state, KEY, inputs(), key=KEY)
        assert_drawn_at(output, module, ANNEALED(step))
        assert_clocks(built, state, [step + 1])


@every_module
def test_deterministic_calls_never_tick(framework, module):
    built, params, state = started(framework, module)
    for call in ({}, {"step": 9}, {"temperature": 0.1}):
        _, after = built.train(params, state, KEY, inputs(), deterministic=True, **call)
        assert_clocks(built, after, [0])
    always = model(framework, module, temperature=ANNEALED, deterministic=True)
    params, state = always.init(KEY, inputs())
    assert_clocks(always, state, [0])
    assert_clocks(always, always.train(params, state, None, inputs())[1], [0])


@every_module
def test_call_arguments_win_temperature_over_step_over_clock(framework, module):
    built, params, state = started(framework, module)
    train = functools.partial(built.train, params, state, KEY, inputs(), key=KEY)
    (output,), after = train(temperature=0.25)
    assert_drawn_at(output, module, 0.25)
    assert_clocks(built, after, [1])
    (output,), after = train(step=40)
    assert_drawn_at(output, module, ANNEALED(40))
    assert_clocks(built, after, [41])
    (output,), after = train(step=np.uint32(40), temperature=jnp.float32(0.25))
    assert_drawn_at(output, module, 0.25)
    assert_clocks(built, after, [41])


@every_module
def test_the_clock_saturates_and_never_wraps(framework, module):
    built, params, state = started(framework, module)
    for step in (LAST - 1, LAST, LAST):
        state = built.train(params, built.set_step(params, state, step), KEY, inputs())[1]
        assert_clocks(built, state, [LAST])
    (output,), state = built.train(params, state, KEY, inputs(), key=KEY, step=2**40)
    assert_drawn_at(output, module, 0.5)
    assert_clocks(built, state, [LAST])


@every_module
def test_each_call_in_a_forward_pass_ticks_and_draws_anew(framework, module):
    built = model(framework, module, 2, 3, temperature=ANNEALED, estimator=gs.Pathwise())
    params, state = built.init(KEY, inputs())
    assert_clocks(built, state, [0, 0])
    train = jax.jit(built.train)
    first, after = train(params, state, KEY, inputs())
    assert_clocks(built, after, [3, 3])
    second, after = train(params, after, jax.random.fold_in(KEY, 1), inputs())
    assert_clocks(built, after, [6, 6])
    samples = np.array([sample_of(output) for output in first + second])
    assert len({sample.tobytes() for sample in samples}) == 12
    again, _ = train(params, state, KEY, inputs())
    np.testing.assert_array_equal(samples[:6], [sample_of(output) for output in again])


@every_module
def test_set_step_sets_every_clock_and_works_under_jit(framework, module):
    built = model(framework, module, 2, temperature=ANNEALED)
    params, state = built.init(KEY, inputs())
    for step in (7, np.int64(7), jnp.uint8(7)):
        assert_clocks(built, built.set_step(params, state, step), [7, 7])
        assert_clocks(built, jax.jit(built.set_step)(params, state, step), [7, 7])
    assert_clocks(built, built.set_step(params, state, 2**40), [LAST, LAST])
    assert_clocks(built, state, [0, 0])
    with pytest.raises(TypeError, match="step"):
        built.set_step(params, state, 7.0)


@every_module
def test_a_constant_temperature_owns_no_clock(framework, module):
    built, params, state = started(framework, module, temperature=0.5)
    assert built.clocks(state) == []
    (output,), _ = built.train(params, state, KEY, inputs(), key=KEY, step=5)
    assert_drawn_at(output, module, 0.5)
    with pytest.raises(ValueError, match="set_step"):
        built.set_step(params, state, 7)


@every_module
@pytest.mark.parametrize("clock", [jnp.bfloat16(3), jnp.float32(3), jnp.uint32(3)], ids=str)
def test_a_clock_of_another_dtype_is_refused_by_name(framework, module, clock):
    built, params, state = started(framework, module)
    with pytest.raises(TypeError, match=rf"{module}.*int32.*{clock.dtype}"):
        built.train(params, built.with_clocks(state, clock), KEY, inputs())


@every_module
@pytest.mark.usefixtures("promotion_as_users_have_it")
def test_a_cast_of_the_floating_leaves_keeps_the_clock(framework, module):
    built, params, state = started(framework, module)
    state = built.set_step(params, state, 300)  # bfloat16 would make 300 of 301

    def half(leaf):
        is_floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(jnp.bfloat16) if is_floating else leaf

    params, state = jax.tree.map(half, (params, state))
    state = built.train(params, state, KEY, inputs(jnp.bfloat16))[1]
    assert_clocks(built, state, [301])


@every_module
def test_a_step_that_is_no_integer_is_refused_by_name(framework, module):
    built, params, state = started(framework, module)
    for step in (1.0, True, "1", jnp.float32(1)):
        with pytest.raises(TypeError, match="step"):
            built.train(params, state, KEY, inputs(), step=step)


@every_module
def test_a_thousand_annealing_steps_compile_once(framework, module, compilations):
    built, params, state = started(framework, module)
    traces = []

    @jax.jit
    def train(params, state, key):
        traces.append(key)
        return built.train(params, state, None, inputs(), key=key)

    for step, key in enumerate(list(jax.random.split(KEY, 1000))):
        (output,), state = train(params, state, key)
        if step == 0:
            assert compilations() > 0
    assert len(traces) == 1 and compilations() == 0
    assert_clocks(built, state, [1000])
    expected = relaxed(module, ANNEALED(999), key=key)
    np.testing.assert_allclose(sample_of(output), expected, rtol=0, atol=8 * 2.0**-23)


# --- randomness --------------------------------------------------------------------------------


ESTIMATORS = [
    cls(0.8) if cls is gs.DecoupledStraightThrough else cls() for cls in gs.ESTIMATORS.values()
]


@every_module
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda dtype: dtype.__name__)
def test_an_explicit_key_gives_the_numbers_of_the_core(framework, module, estimator, dtype):
    built, params, state = started(framework, module, estimator=estimator)
    weights = jnp.arange(CLASSES * LATENTS, dtype=dtype).reshape(1, -1)

    def from_module(x):
        sample = sample_of(built.train(params, state, None, x, key=KEY)[0][0])
        return jnp.sum(sample.reshape(x.shape).astype(dtype) * weights), sample

    def from_core(x):
        sample = estimator(KEY, logits_of(module, x), ANNEALED(0))
        return jnp.sum(sample.reshape(x.shape).astype(dtype) * weights), sample

    gradients, samples = zip(
        *(jax.grad(f, has_aux=True)(inputs(dtype)) for f in (from_module, from_core)), strict=True
    )
    assert samples[0].dtype == samples[1].dtype and gradients[0].dtype == dtype
    np.testing.assert_array_equal(*samples)
    np.testing.assert_array_equal(*gradients)
    assert np.any(gradients[0] != 0)


@every_module
def test_a_training_call_without_a_stream_is_refused_and_says_what_to_write(framework, module):
    built, params, state = started(framework, module)
    if framework.name == "nnx" and module == "GumbelGate":
        with pytest.raises(ValueError, match=r"rngs=nnx\.Rngs"):
            built.init(None, inputs())
        return
    if framework.name == "nnx":
        params, state = built.init(None, inputs())
    with pytest.raises(ValueError, match=rf"{module}.*key=.*deterministic=True"):
        built.train(params, state, None, inputs())


# --- modes -------------------------------------------------------------------------------------


@every_module
def test_deterministic_is_the_argmax_without_gradient_key_clock_or_temperature(framework, module):
    built, params, state = started(framework, module)

    def loss(x):
        (output,) = built.evaluate(params, state, x)
        return jnp.sum(sample_of(output) * 3), output

    gradient, output = jax.grad(loss, has_aux=True)(inputs())
    assert np.all(gradient == 0)
    logits = logits_of(module, inputs())
    np.testing.assert_array_equal(
        sample_of(output), np.eye(logits.shape[-1])[np.asarray(logits.argmax(-1))]
    )
    if hasattr(output, "temperature"):
        assert np.isnan(output.temperature) and output.deterministic is True
    assert "random" not in str(jax.make_jaxpr(loss)(inputs()))


@every_module
def test_the_call_decides_the_mode_before_the_constructor_and_training_is_the_default(
    framework, module
):
    for constructor in (None, False, True):
        built, params, state = started(framework, module, deterministic=constructor)
        for call in (None, False, True):
            (output,), after = built.train(params, state, KEY, inputs(), deterministic=call)
            is_deterministic = bool(constructor if call is None else call)
            assert np.all(np.isin(sample_of(output), [0, 1])) == is_deterministic
            assert getattr(output, "deterministic", is_deterministic) is is_deterministic
            assert_clocks(built, after, [0 if is_deterministic else 1])


@every_module
def test_a_traced_mode_is_refused_with_the_way_out(framework, module):
    built, params, state = started(framework, module)
    with pytest.raises(TypeError, match=r"deterministic.*static_arg"):
        jax.jit(lambda mode: built.train(params, state, KEY, inputs(), deterministic=mode))(True)
    with pytest.raises(TypeError, match="deterministic"):
        built.train(params, state, KEY, inputs(), deterministic="yes")


# --- options -----------------------------------------------------------------------------------


@every_module
@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf"), "1", None, True])
def test_what_is_no_temperature_is_refused_by_name(framework, module, temperature):
    with pytest.raises((TypeError, ValueError), match="temperature"):
        model(framework, module, temperature=temperature).init(KEY, inputs())
    if temperature is not None:
        built, params, state = started(framework, module)
        with pytest.raises((TypeError, ValueError), match="temperature"):
            built.train(params, state, KEY, inputs(), temperature=temperature)


@every_module
@pytest.mark.parametrize(
    "half", [0.5, np.float32(0.5), np.array(0.5), jnp.float32(0.5), jnp.bfloat16(0.5)], ids=repr
)
def test_a_number_is_a_temperature_whatever_holds_it(framework, module, half):
    built, params, state = started.__wrapped__(framework, module, temperature=half)
    (output,), _ = built.train(params, state, KEY, inputs(), key=KEY)
    assert_drawn_at(output, module, 0.5)


@every_module
def test_traced_and_other_arrays_are_refused_as_the_temperature_of_a_module(framework, module):
    def init(temperature):
        return model(framework, module, temperature=temperature).init(KEY, inputs())

    for temperature in (jnp.ones(1), np.ones((4, 1)), jnp.bool_(True), np.array(1j)):
        with pytest.raises(TypeError, match="temperature must be a number"):
            init(temperature)
    with pytest.raises(TypeError, match="temperature must be a number"):
        jax.jit(init)(0.5)


@every_module
@pytest.mark.parametrize(
    ("estimator", "write"),
    [
        ("pathwise", r"'pathwise'; write Pathwise\(\)"),
        (gs.Pathwise, r"Pathwise'>; write Pathwise\(\)"),
        ("gumble", r"'gumble'; write StraightThroughGumbel\(\)"),
        (None, r"None; write StraightThroughGumbel\(\)"),
        (0.5, r"0\.5; write StraightThroughGumbel\(\)"),
    ],
    ids=str,
)
def test_what_is_no_estimator_is_refused_by_name(framework, module, estimator, write):
    with pytest.raises(
        TypeError, match=rf"^({module}.*: )?estimator must be a gradient estimator, got .*{write}"
    ):
        model(framework, module, estimator=estimator).init(KEY, inputs())


@every_module
def test_dtype_is_that_of_the_sample_alone(framework, module):
    built, params, state = started(framework, module, dtype=jnp.bfloat16)
    training = built.train(params, state, KEY, inputs(), key=KEY)[0][0]
    expected = relaxed(module, 2.0).astype(jnp.bfloat16)
    np.testing.assert_array_equal(sample_of(training), expected)
    assert sample_of(training).dtype == jnp.bfloat16
    assert sample_of(built.evaluate(params, state, inputs())[0]).dtype == jnp.bfloat16
    if isinstance(training, gs.LatentOutput):
        assert training.kl.dtype == training.logits.dtype == jnp.float32


@every_module
def test_excluded_classes_are_never_drawn_in_either_mode(framework, module):
    built, params, state = started(framework, module)
    where = jnp.arange(logits_of(module, inputs()).shape[-1]) != 1
    training = built.train(params, state, KEY, inputs(), where=where)[0][0]
    evaluated = built.evaluate(params, state, inputs(), where=where)[0]
    for output in (training, evaluated):
        assert np.all(sample_of(output)[..., 1] == 0)
        np.testing.assert_allclose(sample_of(output).sum(-1), 1, rtol=1e-6)
        if module != "GumbelSoftmax":
            excluded = np.broadcast_to(~where, output.logits.shape)
            np.testing.assert_array_equal(output.logits == -jnp.inf, excluded)


@every_module
def test_integer_input_is_refused_by_name_in_either_mode(framework, module):
    built, params, state = started(framework, module)
    integers = jnp.zeros((4, LATENTS * CLASSES), jnp.int32)
    name = "x" if module == "GumbelGate" else "logits"
    with pytest.raises(TypeError, match=rf"{module}.*: {name} must be floating-point"):
        built.train(params, state, KEY, integers)
    with pytest.raises(TypeError, match=rf"{module}.*: {name} must be floating-point"):
        built.evaluate(params, state, integers)
