"""Random bits: the oracle is ``jax.random.bits``, bit for bit, whatever computes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gs_modules._bits import _log, drawn

KEY = jax.random.key(11)


def bits_of(key, shape, dtype=jnp.uint32):
    return jax.jit(lambda key: drawn(lambda bits, log: bits(shape, dtype, None), key))(key)


@pytest.mark.parametrize(
    "shape", [(), (0,), (1,), (7,), (3, 0, 2), (5, 4, 3), (1, 70_000)], ids=str
)
def test_bits_are_those_of_jax(shape):
    found = bits_of(KEY, shape)
    assert (found.shape, found.dtype) == (shape, np.uint32)
    np.testing.assert_array_equal(found, jax.random.bits(KEY, shape))


def test_64_bits_are_those_of_jax():
    with jax.enable_x64(True):
        found, expected = bits_of(KEY, (3, 5), jnp.uint64), jax.random.bits(KEY, (3, 5), jnp.uint64)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
@pytest.mark.parametrize("is_partitionable", [True, False])
def test_other_generators_draw_as_in_jax(impl, is_partitionable):
    with jax.threefry_partitionable(is_partitionable):
        key = jax.random.key(3, impl=impl)
        np.testing.assert_array_equal(bits_of(key, (4, 3)), jax.random.bits(key, (4, 3)))


def test_old_style_keys_and_disabled_jit_draw_the_same():
    expected = jax.random.bits(KEY, (4, 3))
    np.testing.assert_array_equal(bits_of(jax.random.key_data(KEY), (4, 3)), expected)
    with jax.disable_jit():
        np.testing.assert_array_equal(bits_of(KEY, (4, 3)), expected)


def test_vmap_over_keys_nested_and_of_any_axis():
    keys = jax.random.split(KEY, (3, 2))
    found = jax.vmap(jax.vmap(lambda key: bits_of(key, (4, 5))), in_axes=1)(keys)
    expected = [[jax.random.bits(keys[i, j], (4, 5)) for i in range(3)] for j in range(2)]
    np.testing.assert_array_equal(found, expected)


def test_what_is_drawn_stays_apart_from_what_reduces_it_also_under_vmap():
    """The compiled program holds it behind a condition that XLA neither folds nor selects on."""

    def largest(key):
        return drawn(lambda bits, log: bits((8, 16), jnp.uint32, None), key).max(-1)

    for function, keys in [(largest, KEY), (jax.vmap(largest), jax.random.split(KEY, 3))]:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            program = jax.jit(function).lower(keys).compile().as_text()
        assert " conditional(" in str(program)


def test_each_shard_of_a_shard_map_draws_by_its_own_key():
    mesh = jax.make_mesh((4,), ("shards",), axis_types=(AxisType.Auto,))
    keys = jax.random.split(KEY, 4)
    per_shard = jax.shard_map(
        lambda key: bits_of(key[0], (1, 6)),
        mesh=mesh,
        in_specs=PartitionSpec("shards"),
        out_specs=PartitionSpec("shards"),
    )
    expected = [jax.random.bits(key, (6,)) for key in keys]
    np.testing.assert_array_equal(per_shard(keys), expected)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_keys_may_be_sharded(kind):
    mesh = jax.make_mesh((4,), ("shards",), axis_types=(kind,))
    sharding = NamedSharding(mesh, PartitionSpec("shards"))
    keys = jax.device_put(jax.random.split(KEY, 8), sharding)
    found = jax.jit(jax.vmap(lambda key: bits_of(key, (6,))))(keys)
    expected = [jax.random.bits(key, (6,)) for key in jax.random.split(KEY, 8)]
    np.testing.assert_array_equal(found, expected)


def test_one_exported_program_serves_every_platform():
    exported = jax.export.export(
        jax.jit(lambda data: bits_of(data, (5,))), platforms=("cpu", "cuda", "tpu")
    )(jax.random.key_data(KEY))
    revived = jax.export.deserialize(exported.serialize())
    found = revived.call(jax.random.key_data(KEY))
    np.testing.assert_array_equal(found, jax.random.bits(KEY, (5,)))


def test_draws_in_a_differentiated_scan_and_under_remat():
    @jax.checkpoint
    def loss(scale, key):
        uniform = drawn(lambda bits, log: bits((3,), jnp.uint32, None), key) >> 8
        return jnp.sum(scale * uniform.astype(jnp.float32))

    def total(scale):
        def step(carry, key):
            return carry + loss(scale, key), None

        return jax.lax.scan(step, jnp.float32(0), jax.random.split(KEY, 4))[0]

    expected = sum(
        (jax.random.bits(key, (3,)) >> 8).astype(jnp.float32).sum()
        for key in jax.random.split(KEY, 4)
    )
    np.testing.assert_allclose(jax.grad(total)(2.0), expected, rtol=1e-6)


def test_the_logarithm_of_every_exponent_is_within_a_unit_in_the_last_place():
    near_one = np.linspace(0.5, 2, 1_000_001, dtype=np.float32)
    spread = np.exp(np.random.default_rng(0).uniform(-87, 88, 1_000_000)).astype(np.float32)
    numbers = np.concatenate([near_one, spread, [np.finfo(np.float32).tiny, 3.4028235e38]])
    numbers = numbers.astype(np.float32)
    expected = np.log(numbers.astype(np.float64))
    error = np.abs(np.asarray(jax.jit(_log)(numbers)) - expected)
    assert np.all(error <= 0.9 * np.spacing(np.abs(expected).astype(np.float32)))
    assert jax.jit(_log)(np.float32(1)) == 0
