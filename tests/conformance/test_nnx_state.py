"""Flax NNX: updates that raw jax transforms drop, states without clocks, a key for each stream."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from checks import KEY, OPTIONS
from flax import nnx
from frameworks import (
    NNX,
    REQUIRED,
    inputs,
    required,
    sample_of,
)

import gs_modules as gs


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
    wrong["gates"][1]["rngs"]["key"] = np.zeros(3, np.uint32)
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
        "has gates/1/rngs/key as uint32[3], the model as key<fry>[]",
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
