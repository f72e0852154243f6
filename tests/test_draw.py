"""Draws over more than 1,000 classes: a block by its mass, then a class inside.

Oracles: the softmax, the enumeration of a division, samples of the unconditional law, one device.
The laws of ``test_law.py`` and the edge cases of ``test_relaxed.py`` are drawn this way too.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy import special, stats

import gs_modules as gs
from gs_modules._draw import LARGEST_BLOCK, MANY, SHARDS, Division, _log_mass, draw, scores

KEY = jax.random.key(23)
FALSE_ALARM = 1e-6
SIZES = [1001, 1004, 1008, 1009, 1016, 2048, 4099, 8192, 50257]


@pytest.mark.parametrize("classes", SIZES)
def test_every_class_has_one_place_in_one_block(classes):
    division = Division(classes)
    blocks = np.asarray(division.divided(jnp.arange(float(classes)), 0))
    assert blocks.shape == (division.blocks, division.size)
    is_class = blocks >= 0
    assert np.all(np.isneginf(blocks[~is_class]))
    block, position = np.nonzero(is_class)
    np.testing.assert_array_equal(division.index(block, position), blocks[is_class])
    np.testing.assert_array_equal(np.sort(blocks[is_class]), np.arange(classes))
    assert division.blocks + division.size < 8 * classes**0.5


@pytest.mark.parametrize("classes", [1063 * 65537, 2**30, 2**31 - 1])
def test_no_block_is_so_large_that_its_mass_overflows(classes):
    assert Division(classes).size <= LARGEST_BLOCK
    largest, _ = _log_mass(jnp.zeros((1, 1, LARGEST_BLOCK)), 1)
    np.testing.assert_allclose(largest, np.log(LARGEST_BLOCK), rtol=1e-6)


@pytest.mark.parametrize("classes", [k for k in SIZES if k % SHARDS == 0])
def test_no_block_lies_on_two_of_eight_shards(classes):
    division = Division(classes)
    shard = division.divided(jnp.arange(float(classes)) // (classes / SHARDS), 0)
    for block in np.asarray(shard):
        assert len(set(block[np.isfinite(block)])) == 1


def counts_of(logits, rows, chunks):
    """How often each class is drawn, in ``rows * chunks`` draws."""

    @jax.jit
    def count(logits):
        def of_chunk(counts, chunk):
            same = jnp.broadcast_to(logits, (rows, logits.size))
            index = gs.gumbel_max(jax.random.fold_in(KEY, chunk), same)
            return counts.at[index].add(1), None

        return jax.lax.scan(of_chunk, jnp.zeros(logits.size, jnp.int32), jnp.arange(chunks))[0]

    return np.asarray(count(logits))


@pytest.mark.parametrize("classes", [MANY, MANY + 1, 1009, 2048])
@pytest.mark.parametrize("name", ["equal", "skewed"])
def test_indices_follow_the_law_on_both_sides_of_the_boundary(classes, name):
    logits = np.zeros(classes) if name == "equal" else np.linspace(0, -5, classes)[::-1]
    logits[: classes // 3] += 0.5
    logits = np.random.default_rng(0).permutation(logits).astype(np.float32)
    law, rows, chunks = special.softmax(logits.astype(np.float64)), 2000, 100

    counts = counts_of(logits, rows, chunks)
    assert counts.sum() == rows * chunks
    few = law * rows * chunks < 20  # added up, as a chi-square test wants
    observed = np.append(counts[~few], counts[few].sum())
    expected = np.append(law[~few], law[few].sum()) * rows * chunks
    kept = expected > 0
    assert stats.chisquare(observed[kept], expected[kept]).pvalue > FALSE_ALARM


def test_classes_of_one_in_a_million_come_beside_a_likely_one_and_in_other_blocks():
    logits = np.full(MANY + 9, np.log(1e-6), np.float32)
    logits[500] = 0
    rows, chunks = 1000, 1000
    expected = special.softmax(logits.astype(np.float64))
    size = Division(logits.size).size
    beside = np.arange(logits.size) // size == 500 // size
    beside[500] = False

    counts = counts_of(logits, rows, chunks)
    for some in (beside, ~beside & (np.arange(logits.size) != 500)):
        test = stats.binomtest(int(counts[some].sum()), rows * chunks, expected[some].sum())
        assert test.pvalue > FALSE_ALARM


LOGITS = np.random.default_rng(1).normal(size=MANY + 1).astype(np.float32) * 2


def test_the_scores_given_the_class_have_the_unconditional_law():
    """Of the largest, the second, and a class: Gumbel-perturbed logits, drawn in NumPy."""
    rows = 4000

    @jax.jit
    def index_and_scores(key):
        same = jnp.broadcast_to(jnp.asarray(LOGITS), (rows, LOGITS.size))
        index, given = draw(key, same, 1)
        return index, scores(key, same, index, given, 1)

    index, given = map(np.asarray, index_and_scores(KEY))
    assert np.all(given <= 0) and np.all((given == 0).sum(1) == 1)
    np.testing.assert_array_equal(given.argmax(1), index[:, 0])
    noise = np.random.default_rng(2).gumbel(size=(rows, LOGITS.size))
    expected = LOGITS + noise
    expected -= expected.max(1, keepdims=True)
    second = [np.partition(found, -2, axis=1)[:, -2] for found in (given, expected)]
    a_class = [found[:, LOGITS.argmax()] for found in (given, expected)]
    exps = [special.logsumexp(found, axis=1) for found in (given, expected)]
    for found, value in (second, a_class, exps):
        assert stats.ks_2samp(found, value).pvalue > FALSE_ALARM


def test_the_derivative_is_that_of_the_softmax_of_these_scores():
    logits, weights = (jnp.asarray(x) for x in (LOGITS[None], LOGITS[None, ::-1]))
    given = scores(KEY, logits, *draw(KEY, logits, 1), 1)
    soft = special.softmax(np.asarray(given, np.float64) / 0.7)
    w = np.asarray(weights, np.float64)
    expected = soft * (w - (soft * w).sum()) / 0.7

    def loss(logits, temperature):
        return jnp.sum(weights * gs.gumbel_softmax(KEY, logits, temperature, hard=True))

    found, to_temperature = jax.grad(loss, (0, 1))(logits, 0.7)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    of_temperature = -(expected * np.asarray(given) / 0.7).sum()
    np.testing.assert_allclose(to_temperature, of_temperature, rtol=1e-4)
    tangent = jax.jvp(lambda x: loss(x, 0.7), (logits,), (jnp.ones_like(logits),))[1]
    np.testing.assert_allclose(tangent, expected.sum(), atol=1e-4)


ONE_HOT = {
    "gumbel_softmax": functools.partial(gs.gumbel_softmax, hard=True),
    "lookup": lambda key, logits, temperature: gs.gumbel_lookup(
        key, logits, jnp.eye(logits.shape[-1]), temperature
    )[0],
    **{
        name: estimator()
        for name, estimator in gs.ESTIMATORS.items()
        if name not in ("decoupled", "pathwise", "argmax")
    },
    "decoupled": gs.DecoupledStraightThrough(0.5),
}


@pytest.mark.parametrize("name", ONE_HOT)
def test_whatever_is_one_hot_has_one_index_with_and_without_gradient(name):
    logits = jnp.asarray(np.random.default_rng(3).normal(size=(5, MANY + 1)), jnp.float32)
    index = gs.gumbel_max(KEY, logits)

    def loss(logits):
        drawn = ONE_HOT[name](KEY, logits, 1.0)
        return jnp.sum(drawn * logits), drawn

    gradient, drawn = jax.jit(jax.grad(loss, has_aux=True))(logits)
    expected = np.eye(MANY + 1)[np.asarray(index)]
    np.testing.assert_array_equal(drawn, expected)
    np.testing.assert_array_equal(ONE_HOT[name](KEY, logits, 1.0), expected)
    assert np.all(np.isfinite(gradient)) and np.all(np.any(gradient != 0, axis=1))


def test_any_axis_keys_of_both_kinds_and_vmap_over_keys_draw_the_same():
    logits = jnp.asarray(np.random.default_rng(4).normal(size=(3, MANY + 1)), jnp.float32)
    keys = jax.random.split(KEY, 3)
    expected = np.stack([gs.gumbel_max(key, logits) for key in keys])
    batched = jax.jit(jax.vmap(lambda key: gs.gumbel_max(key, logits)))(keys)
    np.testing.assert_array_equal(batched, expected)
    old_style = np.stack([gs.gumbel_max(jax.random.key_data(key), logits) for key in keys])
    np.testing.assert_array_equal(old_style, expected)
    hard = gs.gumbel_softmax(KEY, logits.T, hard=True, axis=0)
    assert np.all(np.isin(hard, [0, 1])) and np.all(hard.sum(0) == 1)
    np.testing.assert_array_equal(hard.argmax(0), gs.gumbel_max(KEY, logits.T, axis=0))


@pytest.mark.skipif(jax.device_count() < 4, reason="needs four devices")
@pytest.mark.parametrize("classes", [1008, 4096])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_the_mass_of_a_block_is_bitwise_the_same_on_any_number_of_devices(classes, axis, kind):
    """So no index depends on them, not even where two blocks are all but equally good."""
    logits = np.random.default_rng(5).normal(size=(16, classes)).astype(np.float32) * 4
    division = Division(classes)
    mass = jax.jit(lambda logits: _log_mass(division.divided(logits, 1), 1)[0])
    draw = jax.jit(lambda logits: gs.gumbel_softmax(KEY, logits, 0.5, hard=True))
    expected, drawn = mass(logits), draw(logits)
    np.testing.assert_allclose(
        special.logsumexp(np.asarray(expected, np.float64), axis=(1, 2)),
        special.logsumexp(logits.astype(np.float64), axis=1) - logits.max(1),
        rtol=1e-6,
    )
    for devices in (2, 4):
        mesh = jax.make_mesh((devices,), ("shards",), axis_types=(kind,))
        spec = PartitionSpec("shards", None) if axis == 0 else PartitionSpec(None, "shards")
        sharded = jax.device_put(logits, NamedSharding(mesh, spec))
        np.testing.assert_array_equal(mass(sharded), expected)
        np.testing.assert_array_equal(draw(sharded), drawn)


def test_the_loop_of_the_scores_reads_a_byte_for_each_class():
    """Without it, LLVM would take vectors half as long: ``last_bytes``."""

    def total(logits):
        return jnp.sum(gs.gumbel_softmax(KEY, logits, 0.5, hard=True)[:, 0])

    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        program = str(jax.jit(jax.grad(total)).lower(jnp.zeros((64, 2 * MANY))).compile().as_text())
    loops = [loop for loop in re.split(r"\n}\n", program) if " exponential(" in loop]
    assert [loop for loop in loops if re.search(r"param\S* = u8\[", loop)]


@pytest.mark.parametrize("classes", [1001, 1032, 50_257])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_blocks_are_drawn_where_integers_are_of_64_bits(dtype, classes):
    with jax.enable_x64(True):
        only = (
            jnp.full((3, classes), -jnp.inf, dtype).at[jnp.arange(3), [0, 700, classes - 1]].set(0)
        )
        index = jax.jit(gs.gumbel_max)(KEY, only)
        hard = jax.jit(functools.partial(gs.gumbel_softmax, hard=True))(KEY, only)
        assert (index.dtype, hard.dtype) == (jnp.int32, dtype)
    assert index.tolist() == [0, 700, classes - 1]
    np.testing.assert_array_equal(np.asarray(hard).argmax(-1), index)


def test_keys_of_another_kind_draw_a_noise_for_each_class():
    """As the kernel for a GPU does: the kind of key decides, never the device."""
    key = jax.random.key(0, impl="rbg")
    logits = jnp.broadcast_to(LOGITS, (50, LOGITS.size))
    soft = gs.gumbel_softmax(key, logits, 0.5)
    np.testing.assert_array_equal(soft.argmax(-1), gs.gumbel_max(key, logits))
    default = jax.random.key(0)
    by_blocks = gs.gumbel_max(default, logits)
    assert np.any(gs.gumbel_softmax(default, logits, 0.5).argmax(-1) != by_blocks)
