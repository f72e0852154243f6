"""Random bits against jax's own threefry, word by word, and what keeps the drawn array apart."""

import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gs_modules import gumbel_noise
from gs_modules._bits import drawn, log_of_normal
from gs_modules._loops import FEW
from gs_modules._threefry import OTHER, other_key

KEY = jax.random.key(11)
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def distances_of(key, shape, sharding=None):
    """What is drawn of 32 bits before noise is made of it."""
    return jax.jit(lambda key: drawn(itself, key, shape, jnp.float32, sharding))(key)


def itself(distance, log):
    del log
    return distance


def expected_bits(key, shape):
    """``[R, ...]``: of jax's blocks, all the first words and then all the second ones."""
    rows, *rest = shape
    half = -(-rows // 2)
    blocks = half * int(np.prod(rest))
    counts = np.concatenate([np.zeros(blocks), np.arange(blocks)]).astype(np.uint32)
    words = threefry_2x32(jax.random.key_data(key), jnp.asarray(counts))
    return np.asarray(words).reshape(2 * half, *rest)[:rows]


def expected_distances(key, shape):
    return distances(expected_bits(key, shape))


def distances(bits):
    """Of ``(bits + 1/2) / 2**32`` from the nearer of 0 and 1, negative from 1."""
    signed = bits.view(np.int32).astype(np.float32)
    return signed / np.float32(2**32) + np.float32(2**-33)


@pytest.mark.parametrize(
    "shape",
    [
        (0,),
        (2,),
        (7,),
        (3, 0, 2),
        (6, 4, 3),
        (5, 4, 3),
        (5, 300),
        (FEW, 1),
        (FEW + 1,),
        (30004, 10),
    ],
    ids=str,
)
def test_bits_are_the_words_of_the_blocks_of_jax(shape):
    expected = expected_distances(KEY, shape)
    found = distances_of(KEY, shape)
    assert found.shape == shape
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(distances_of(KEY, (1, 1, *shape))[0, 0], expected)


def test_a_single_number_is_the_first_word():
    expected = expected_distances(KEY, (1,))
    for shape in [(), (1,), (1, 1)]:
        np.testing.assert_array_equal(distances_of(KEY, shape), expected.reshape(shape))


def test_64_bits_are_those_of_jax():
    with jax.enable_x64(True):
        found = jax.jit(lambda key: drawn(itself, key, (3, 5), jnp.float64, None))(KEY)
        bits = np.asarray(jax.random.bits(KEY, (3, 5), jnp.uint64))
    np.testing.assert_array_equal(found, (bits.view(np.int64).astype(float) + 0.5) / 2.0**64)


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_other_generators_draw_as_in_jax(impl):
    key = jax.random.key(3, impl=impl)
    np.testing.assert_array_equal(
        distances_of(key, (4, 3)), distances(np.asarray(jax.random.bits(key, (4, 3))))
    )


def test_threefry_draws_the_same_whatever_jax_makes_of_it():
    with jax.threefry_partitionable(False):
        found = distances_of(KEY, (4, 3))
    np.testing.assert_array_equal(found, expected_distances(KEY, (4, 3)))


def test_disabled_jit_draws_the_same():
    for shape in [(), (1, 3), (4, 3), (5, 3)]:
        expected = distances_of(KEY, shape)
        with jax.disable_jit():
            np.testing.assert_array_equal(distances_of(KEY, shape), expected)


def test_the_other_key_is_of_the_kind_of_the_first_and_draws_otherwise():
    other = other_key(KEY)
    assert (other.dtype, other.shape) == (KEY.dtype, KEY.shape)
    assert not np.any(distances_of(other, (1000,)) == distances_of(KEY, (1000,)))
    keys = jax.random.split(KEY, 3)
    data = jax.vmap(lambda key: jax.random.key_data(other_key(key)))(keys)
    difference = np.asarray(data) ^ np.asarray(jax.random.key_data(keys))
    np.testing.assert_array_equal(difference, [[OTHER, 0]] * 3)


def test_vmap_over_keys_nested_and_of_any_axis():
    keys = jax.random.split(KEY, (3, 2))
    found = jax.vmap(jax.vmap(lambda key: distances_of(key, (5, 4))), in_axes=1)(keys)
    expected = [[expected_distances(keys[i, j], (5, 4)) for i in range(3)] for j in range(2)]
    np.testing.assert_array_equal(found, expected)


def test_a_mapped_condition_draws_what_its_branch_draws():
    keys, is_drawn = jax.random.split(KEY, 3), np.array([True, False, True])

    def drawn_or_not(key, is_drawn):
        return jax.lax.cond(is_drawn, lambda: gumbel_noise(key, (5, 4)), lambda: jnp.zeros((5, 4)))

    noise = jax.jit(lambda key: gumbel_noise(key, (5, 4)))
    expected = [
        noise(key) * flag for key, flag in zip(keys, is_drawn.astype(np.float32), strict=True)
    ]
    np.testing.assert_array_equal(jax.vmap(drawn_or_not)(keys, is_drawn), expected)


def test_no_keys_draw_nothing():
    none = jax.random.split(KEY, 0)
    assert jax.vmap(lambda key: distances_of(key, (5, 4)))(none).shape == (0, 5, 4)


@pytest.mark.parametrize("rows, kept_by", [(8, " while("), (FEW // 16, " conditional(")])
def test_what_is_drawn_stays_apart_from_what_reduces_it_also_under_vmap(rows, kept_by):
    """In loops, or behind a condition, that XLA neither folds nor selects on."""

    def largest(key):
        return distances_of(key, (rows, 17)).max(-1)

    for function, keys in [(largest, KEY), (jax.vmap(largest), jax.random.split(KEY, 3))]:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            program = str(jax.jit(function).lower(keys).compile().as_text())
        assert kept_by in program
        # One thread does what is few; XLA tells of any other loop among how many it is dealt.
        is_dealt_out = 'outer_dimension_partitions":["' in program
        assert is_dealt_out == (rows > 8 and THREADS > 1)


@pytest.mark.parametrize("rows", [8, FEW // 16])
def test_the_loop_with_the_logarithm_reads_a_byte_for_each_block(rows):
    """Were the constant folded into numbers of 32 bits, LLVM would take vectors half as long."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        draw = jax.jit(lambda key: gumbel_noise(key, (rows, 170)))
        program = str(draw.lower(KEY).compile().as_text())
    loops = re.split(r"\n}\n", program)
    assert [loop for loop in loops if " log(" in loop and re.search(r"param\S* = u8\[", loop)]


def test_each_shard_of_a_shard_map_draws_by_its_own_key():
    mesh = jax.make_mesh((4,), ("shards",), axis_types=(AxisType.Auto,))
    keys = jax.random.split(KEY, 4)
    per_shard = jax.shard_map(
        lambda key: distances_of(key[0], (1, 6)),
        mesh=mesh,
        in_specs=PartitionSpec("shards"),
        out_specs=PartitionSpec("shards"),
    )
    expected = [expected_distances(key, (6,)) for key in keys]
    np.testing.assert_array_equal(per_shard(keys), expected)


@pytest.mark.parametrize(
    "shape", [(1,), (5,), (1, 7), (2, 3), (64,), (65,), (1000,), (0, 3)], ids=str
)
@pytest.mark.parametrize("keys", [(3, 4), (4, 16)], ids=str)
def test_many_keys_draw_what_each_draws_alone(keys, shape):
    """Loops of vectors of any length contract products and sums alike."""
    keys = jax.random.split(KEY, keys)
    noise = jax.jit(lambda key: gumbel_noise(key, shape))
    expected = [[noise(key) for key in row] for row in keys]
    np.testing.assert_array_equal(jax.jit(jax.vmap(jax.vmap(noise)))(keys), expected)


@pytest.mark.parametrize("shape", [(64,), (1000,)], ids=str)
def test_keys_that_a_program_holds_draw_as_keys_that_it_is_given(shape):
    keys = jax.random.split(KEY, 16)
    noise = jax.vmap(lambda key: gumbel_noise(key, shape))
    np.testing.assert_array_equal(jax.jit(lambda: noise(keys))(), jax.jit(noise)(keys))


@pytest.mark.parametrize("size", [6, 2 * FEW])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_keys_may_be_sharded(kind, size):
    mesh = jax.make_mesh((4,), ("shards",), axis_types=(kind,))
    sharding = NamedSharding(mesh, PartitionSpec("shards"))
    keys = jax.device_put(jax.random.split(KEY, 8), sharding)
    found = jax.jit(jax.vmap(lambda key: distances_of(key, (size,))))(keys)
    expected = [expected_distances(key, (size,)) for key in jax.random.split(KEY, 8)]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize(
    ("shape", "axis"), [((8, 4), 0), ((4, 3), 0), ((12, 4), 0), ((3, 8), 1), ((1, 12), 1)], ids=str
)
def test_any_axis_may_be_sharded(shape, axis, kind):
    """Also where half of an axis does not end with a shard."""
    mesh = jax.make_mesh((4,), ("shards",), axis_types=(kind,))
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, "shards"))

    def shifted(key, zeros):
        explicit = jax.typeof(zeros).sharding if kind == AxisType.Explicit else None
        return zeros + distances_of(key, shape, explicit)

    found = jax.jit(shifted)(KEY, jax.device_put(jnp.zeros(shape), sharding))
    assert found.sharding.is_equivalent_to(sharding, 2)
    expected = expected_distances(KEY, tuple(size for size in shape if size > 1)).reshape(shape)
    np.testing.assert_array_equal(found, expected)


def test_one_exported_program_serves_every_platform():
    exported = jax.export.export(
        jax.jit(lambda data: distances_of(jax.random.wrap_key_data(data), (5,))),
        platforms=("cpu", "cuda", "tpu"),
    )(jax.random.key_data(KEY))
    revived = jax.export.deserialize(exported.serialize())
    found = revived.call(jax.random.key_data(KEY))
    np.testing.assert_array_equal(found, expected_distances(KEY, (5,)))


def test_draws_in_a_differentiated_scan_and_under_remat():
    @jax.checkpoint
    def loss(scale, key):
        return jnp.sum(scale * distances_of(key, (3,)))

    def total(scale):
        def step(carry, key):
            return carry + loss(scale, key), None

        return jax.lax.scan(step, jnp.float32(0), jax.random.split(KEY, 4))[0]

    expected = sum(expected_distances(key, (3,)).sum() for key in jax.random.split(KEY, 4))
    np.testing.assert_allclose(jax.grad(total)(2.0), expected, rtol=1e-6)


def test_the_logarithm_of_every_exponent_is_within_a_unit_in_the_last_place():
    near_one = np.linspace(0.5, 2, 1_000_001, dtype=np.float32)
    spread = np.exp(np.random.default_rng(0).uniform(-87, 88, 1_000_000)).astype(np.float32)
    numbers = np.concatenate([near_one, spread, [np.finfo(np.float32).tiny, 3.4028235e38]])
    numbers = numbers.astype(np.float32)
    expected = np.log(numbers.astype(np.float64))
    error = np.abs(np.asarray(jax.jit(log_of_normal)(numbers)) - expected)
    assert np.all(error <= np.spacing(np.abs(expected).astype(np.float32)))
    assert jax.jit(log_of_normal)(np.float32(1)) == 0
