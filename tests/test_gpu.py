"""The kernels of a GPU, interpreted on CPU, against what XLA computes of the same bits.

``test_law.py``, ``test_relaxed.py`` and ``test_derivatives.py`` run on a GPU too, with
``JAX_PLATFORMS=cuda,cpu``.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies

import gs_modules as gs
from gs_modules import _fused, _gpu, _jacobian, _kernels, _philox, _relaxed, _rows, _scores, _tiles
from gs_modules._noise import gumbel_noise_like

KEY = jax.random.fold_in(jax.random.key(7, impl="rbg"), 3)
EPSILON = np.finfo(np.float32).eps


SOFT, HARD = (False, jnp.float32), (True, jnp.float32)
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def interpreted(kernel, *arguments):
    """What ``kernel`` draws; of ``arguments``, arrays come first."""

    def draw(*arrays):
        return kernel(*arrays, *arguments[len(arrays) :], interpret=True)

    arrays = [argument for argument in arguments if isinstance(argument, jax.Array)]
    return jax.jit(draw, compiler_options=QUICKLY)(*arrays)


@pytest.fixture
def short_rows(monkeypatch):
    """Rows of over 64 classes are long ones, so that small arrays reach every path."""
    monkeypatch.setattr(_tiles, "LONGEST_STEP", 64)
    monkeypatch.setattr(_tiles, "LONG_STEP", 64)
    monkeypatch.setattr(_tiles, "STEP", 64)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The public functions draw by an interpreted kernel."""

    def serve(array, axis):
        return axis == array.ndim - 1

    def by_platform(by_kernel, by_xla, *args):
        del by_xla
        return by_kernel(*args)

    monkeypatch.setattr(_kernels, "serve", serve)
    monkeypatch.setattr(_kernels, "by_platform", by_platform)
    for draw in (_fused.samples, _fused.first_argmax, _fused.jacobian_product):
        monkeypatch.setattr(_fused, draw.__name__, functools.partial(draw, interpret=True))
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.parametrize("counter", [(0, 0), (2**32 - 2, 5), (2**32 - 2, 2**32 - 1)])
@pytest.mark.parametrize("left", [(11, 12), (2**32 - 1, 2**32 - 1)])
def test_bits_are_those_of_jax_up_to_every_carry(left, counter):
    data = jnp.array([*left, *counter], jnp.uint32)
    expected = jax.random.bits(jax.random.wrap_key_data(data, impl="rbg"), (32,))
    start = (*data[2:], *data[:2])
    counter = _philox.add(start, jnp.arange(8, dtype=jnp.uint32))
    bits = _philox.random_bits(counter, (data[0], data[1]), interpret=True)
    np.testing.assert_array_equal(bits, expected)


def test_noise_is_the_quantile_of_its_bits_less_a_constant():
    """The oracle is float64: at both ends, where series and logarithm meet, and between."""
    edges = [0, 2**29, 2**30, 2**31, 3 * 2**30, 2**32 - 1]
    near = np.add.outer(edges, np.arange(-300, 300)).ravel() % 2**32
    between = np.random.default_rng(0).integers(0, 2**32, 100_000)
    patterns = np.concatenate([near, between])
    bits = jnp.asarray(patterns, jnp.uint32)
    noise = -math.log(2) * _philox.log2_exponential(bits, interpret=True)
    lower = (patterns + 0.5) / 2.0**32
    upper = (2.0**32 - 1 - patterns + 0.5) / 2.0**32
    exponential = np.where(lower < 0.5, -np.log1p(-np.minimum(lower, 0.5)), -np.log(upper))
    expected = -np.log(exponential / np.log(2))
    np.testing.assert_allclose(noise, expected, rtol=4 * EPSILON, atol=4 * EPSILON)


def logits_of(rows, classes, dtype):
    logits = 3 * jax.random.normal(jax.random.key(5), (rows, classes))
    logits = logits.at[0].set(-jnp.inf).at[1, -1].set(jnp.nan).at[2].set(1e9)
    return logits.at[3, 1:].set(-jnp.inf).at[4, 0].set(jnp.inf).astype(dtype)


CASES = [
    (8, 20, jnp.float32),  # several rows a program, some columns of a tile without a class
    (9, 7, jnp.bfloat16),  # rows that begin between blocks of bits; a program with fewer rows
    (6, 1, jnp.float32),
    (5, 128, jnp.bfloat16),  # long rows in whole tiles
    (6, 203, jnp.float32),  # steps in the middle of a row
    (6, 191, jnp.float32),  # the step before the last may reach beyond the row
]
IN_HALVES = [(8, 20, jnp.float32), (9, 7, jnp.bfloat16), (6, 1, jnp.float32), (7, 64, jnp.float32)]
DEFAULT = jax.random.key(8)


@pytest.mark.parametrize(
    ("key", "rows", "classes", "dtype"),
    [*((KEY, *case) for case in CASES), *((DEFAULT, *case) for case in IN_HALVES)],
)
def test_samples_are_those_of_xla(short_rows, key, rows, classes, dtype):
    logits = logits_of(rows, classes, dtype)
    data, temperature = jax.random.key_data(key), jnp.float32(0.5)
    wide = _relaxed.computing_logits(logits, None)
    noise = gumbel_noise_like(key, wide)
    (soft,) = interpreted(_fused.samples, data, logits, temperature, [SOFT])
    expected = _relaxed.relaxed(wide, noise, temperature, 1)
    np.testing.assert_allclose(soft, expected, atol=8 * EPSILON)
    assert not np.any(soft[0]) and np.all(np.isnan(soft[1]))
    (hard,) = interpreted(_fused.samples, data, logits, temperature, [(True, dtype)])
    assert hard.dtype == dtype
    expected_index = _rows.first_argmax(_relaxed.perturbed(wide, noise, 1), 1)
    expected = _relaxed.one_hot(expected_index, wide, temperature, 1)
    np.testing.assert_array_equal(hard.astype(jnp.float32), expected)
    both = interpreted(_fused.samples, data, logits, temperature, [SOFT, (True, dtype)])
    np.testing.assert_array_equal(both[0], soft)
    np.testing.assert_array_equal(both[1].astype(jnp.float32), hard.astype(jnp.float32))
    index = interpreted(_fused.first_argmax, data, logits)
    expected = expected_index[:, 0]
    np.testing.assert_array_equal(index, expected)


def test_a_long_row_begins_again_where_a_later_step_is_far_larger(short_rows, monkeypatch):
    logits = 3 * jax.random.normal(jax.random.key(5), (8, 203))
    logits = logits.at[0, :64].set(-jnp.inf).at[1, -1].add(40.0).at[2, 100].set(jnp.inf)
    logits = logits.at[3, :150].set(-jnp.inf).at[3, 160].set(jnp.nan).at[4, 150].set(1e9)
    logits = logits.at[5, :64].add(-1e9).at[6].add(jnp.arange(203.0)).at[7, 64:].add(20.0)
    temperature = jnp.float32(0.5)
    noise = gumbel_noise_like(KEY, logits)
    index = _rows.first_argmax(_relaxed.perturbed(logits, noise, 1), 1)
    expected = _relaxed.relaxed(logits, noise, temperature, 1)
    arguments = jax.random.key_data(KEY), logits, temperature
    relaxed, one_hot = interpreted(_fused.samples, *arguments, [SOFT, HARD])
    np.testing.assert_allclose(relaxed, expected, atol=8 * EPSILON)
    np.testing.assert_array_equal(one_hot, _relaxed.one_hot(index, logits, temperature, 1))
    (alone,) = interpreted(_fused.samples, *arguments, [SOFT])
    np.testing.assert_array_equal(alone, relaxed)
    np.testing.assert_array_equal(interpreted(_fused.first_argmax, *arguments[:2]), index[:, 0])
    monkeypatch.setattr(_scores, "NEAR", 0.0)
    (alone,) = interpreted(_fused.samples, *arguments, [SOFT])
    np.testing.assert_array_equal(alone[7], relaxed[7])


@pytest.mark.parametrize(
    ("key", "classes"), [(KEY, 5), (DEFAULT, 5), (KEY, 203)], ids=["rbg", "default", "long"]
)
def test_a_nan_beside_excluded_classes_is_not_lost_with_the_maximum(
    monkeypatch, short_rows, key, classes
):
    reduced = _fused.reduced

    def losing_nan(reduction, numbers):
        if reduction is jnp.max and numbers.dtype == jnp.float32:
            numbers = jnp.where(jnp.isnan(numbers), -jnp.inf, numbers)
        return reduced(reduction, numbers)

    monkeypatch.setattr(_fused, "reduced", losing_nan)
    monkeypatch.setattr(_scores, "reduced", losing_nan)
    logits = jnp.full((3, classes), -jnp.inf).at[0, 0].set(jnp.nan).at[2, 1].set(1.0)
    arguments = jax.random.key_data(key), logits, jnp.float32(0.5)
    expected = np.zeros((3, classes))
    expected[0], expected[2, 1] = np.nan, 1
    for found in interpreted(_fused.samples, *arguments, [SOFT, HARD]):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("classes", [7, 203])
def test_float32_logits_are_drawn_the_same_beside_float64(short_rows, classes):
    logits = logits_of(8, classes, jnp.float32)
    arguments = jax.random.key_data(KEY), logits, jnp.float32(0.5)
    expected = interpreted(_fused.samples, *arguments, [SOFT, HARD])
    with jax.enable_x64(True):
        found = interpreted(_fused.samples, *arguments, [SOFT, HARD])
        slope = _fused.jacobian_product(
            logits[:, :7], logits[0, 0], logits[:, :7], "float32", interpret=True
        )
    np.testing.assert_array_equal(found, expected)
    assert slope.dtype == jnp.float32


@pytest.mark.parametrize("classes", [6, 70])
def test_each_row_has_its_temperature_and_wrong_ones_are_nan(short_rows, classes):
    logits = logits_of(8, classes, jnp.float32).at[1].set(0)
    given = np.array([np.nan, 1e-38, 0.5, 1e38, 1, 3e-39, np.nan, 2], np.float32)[:, None]
    temperature = _relaxed.positive_or_nan(jnp.asarray(given))
    arguments = jax.random.key_data(KEY), logits, temperature
    noise = gumbel_noise_like(KEY, logits)
    expected = _relaxed.relaxed(logits, noise, jnp.asarray(given), 1)
    soft, hard = interpreted(_fused.samples, *arguments, [SOFT, HARD])
    np.testing.assert_allclose(soft, expected, atol=8 * EPSILON)
    index = _rows.first_argmax(_relaxed.perturbed(logits, noise, 1), 1)
    expected = _relaxed.one_hot(index, logits, jnp.asarray(given), 1)
    np.testing.assert_array_equal(hard, expected)


def drawn(hard, dtype):
    """Of a masked ``[3, 4, 9]``: the sample, its gradients, forward mode, second derivatives."""
    logits = jax.random.normal(jax.random.key(1), (3, 4, 9), dtype)
    where = jax.random.bernoulli(jax.random.key(2), 0.8, (4, 9)).at[0].set(False)
    weights = jax.random.normal(jax.random.key(3), (3, 4, 9))

    def loss(logits, temperature):
        sample = gs.gumbel_softmax(KEY, logits, temperature, hard=hard, where=where)
        return jnp.sum(weights * sample.astype(jnp.float32) ** 2), sample

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def everything(logits, temperature):
        (_, sample), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(logits, temperature)
        value = functools.partial(loss, temperature=temperature)
        tangent = jax.jvp(lambda logits: value(logits)[0], (logits,), (logits,))[1]
        gradient = jax.grad(lambda logits, t: loss(logits, t)[0], (0, 1))
        curvature = jax.jvp(lambda t: gradient(logits, t), (1.0,), (1.0,))
        curvature += jax.jvp(lambda x: gradient(x, temperature), (logits,), (logits,))
        index = gs.gumbel_max(KEY, logits, where=where)
        return sample, index, gradients, tangent, curvature

    return everything(logits, jnp.float32(0.7))


@pytest.mark.slow
@pytest.mark.parametrize(("hard", "dtype"), [(False, jnp.float32), (True, jnp.bfloat16)])
def test_public_functions_and_their_derivatives_agree_with_xla(request, hard, dtype):
    expected = drawn(hard, dtype)
    request.getfixturevalue("as_on_a_gpu")
    found = drawn(hard, dtype)
    exact = 2 if hard else 0
    jax.tree.map(np.testing.assert_array_equal, found[:exact], expected[:exact])
    tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(
            a.astype(jnp.float32), b.astype(jnp.float32), rtol=tolerance, atol=tolerance
        )


def derivatives():
    """Of a masked ``[2, 3, 9]`` to its logits alone, as every transformation computes them."""
    logits = jax.random.normal(jax.random.key(1), (2, 3, 9))
    where = jax.random.bernoulli(jax.random.key(2), 0.8, (3, 9)).at[0].set(False)
    weights = jax.random.normal(jax.random.key(3), logits.shape)

    def draw(logits, temperature):
        return gs.gumbel_softmax(KEY, logits, temperature, where=where)

    def loss(logits, temperature, weights=weights):
        return jnp.sum(weights * draw(logits, temperature).astype(jnp.float32) ** 2)

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def everything(logits, warm):
        gradient = jax.grad(loss)
        one, per_row = jnp.float32(0.7), jnp.array([[0.5], [1], [2]], jnp.float32)
        return (
            gradient(logits, per_row),
            gradient(logits.astype(jnp.bfloat16), one),
            jax.jvp(lambda logits: draw(logits, one), (logits,), (weights,))[1],
            jax.jvp(lambda t: gradient(logits, t), (one,), (one,))[1],
            jax.hessian(loss)(logits, one),
            jax.vmap(gradient, (None, 0))(logits, warm),
            jax.vmap(gradient, (0, None))(jnp.stack([logits, -logits]), per_row),
            jax.vmap(functools.partial(gradient, logits, one))(jnp.stack([weights, -weights])),
            jax.linear_transpose(jax.linearize(lambda x: draw(x, one), logits)[1], logits)(weights),
        )

    return everything(logits, jnp.array([0.5, 2.0]))


@pytest.mark.slow
def test_the_derivative_of_a_kernel_is_that_of_xla_in_every_transformation(request):
    expected = derivatives()
    request.getfixturevalue("as_on_a_gpu")
    for a, b in zip(jax.tree.leaves(derivatives()), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        tolerance = 1e-5 if a.dtype == jnp.float32 else 2e-2
        np.testing.assert_allclose(
            a.astype(jnp.float32), b.astype(jnp.float32), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("temperature", [1e-38, 0.5])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_an_excluded_class_takes_no_part_in_a_product(dtype, temperature):
    relaxed = jax.nn.softmax(jax.random.normal(jax.random.key(1), (5, 203)))
    relaxed = relaxed.at[:, 7].set(0).at[1].set(0).at[2, 3].set(jnp.nan)
    vector = jax.random.normal(jax.random.key(2), relaxed.shape).astype(dtype)
    vector = vector.at[:, 7].set(jnp.inf)
    scale = jnp.asarray(1 / np.sqrt(temperature), jnp.float32)
    product = interpreted(_fused.jacobian_product, relaxed, scale, vector, dtype)
    assert product.dtype == dtype
    exact, slope = np.asarray(relaxed, np.float64), float(scale) ** 2
    wide = np.where(exact == 0, 0, np.asarray(vector, np.float64))
    expected = slope * exact * (wide - np.sum(exact * wide, -1, keepdims=True))
    expected = np.where(exact == 0, 0, expected)
    tolerance = 1e-5 if dtype == jnp.float32 else 1e-2
    np.testing.assert_allclose(
        np.asarray(product, np.float64),
        expected,
        rtol=tolerance,
        atol=tolerance * slope,
    )
    assert not np.any(np.asarray(product[:, 7], np.float32))


def test_a_kernel_is_batched_over_keys_and_over_logits(as_on_a_gpu):
    keys = jax.random.split(KEY, 3)
    logits = jax.random.normal(jax.random.key(4), (3, 5, 8))
    draw = functools.partial(gs.gumbel_softmax, temperature=0.5)
    np.testing.assert_array_equal(
        jax.vmap(draw)(keys, logits), [draw(*pair) for pair in zip(keys, logits, strict=True)]
    )
    np.testing.assert_array_equal(
        jax.vmap(draw, (None, 0))(KEY, logits), [draw(KEY, rows) for rows in logits]
    )
    np.testing.assert_array_equal(
        jax.vmap(gs.gumbel_max)(keys, logits),
        jax.vmap(functools.partial(draw, hard=True))(keys, logits).argmax(-1),
    )


@pytest.mark.parametrize("classes", [8, 1001])
def test_no_array_is_converted_beside_the_kernel_of_a_derivative(classes, as_on_a_gpu):
    logits = jnp.zeros((2, classes), jnp.bfloat16)
    draw = functools.partial(gs.gumbel_softmax, jax.random.key(0), hard=True)

    def forward(logits):
        return jax.jvp(draw, (logits,), (logits,))

    def backward(logits):
        return jax.vjp(draw, logits)[1](logits)

    for derivative in (forward, backward):
        program = str(jax.make_jaxpr(derivative)(logits))
        written = re.findall(r"jacobian_product\[dtype=(\w+)", program)
        assert set(written) == {"bfloat16"}


def test_a_lookup_reads_the_row_of_the_index(as_on_a_gpu):
    logits, temperature = logits_of(8, 6, jnp.float32), jnp.full((8, 1), 0.5).at[5].set(jnp.nan)
    table = jax.random.normal(jax.random.key(8), (6, 2))
    lookup = jax.jit(functools.partial(gs.gumbel_lookup, KEY, logits, table))
    rows, index = lookup(temperature)
    expected = np.array(gs.gumbel_max(KEY, logits))
    expected[5] = -1  # the temperature is NaN
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_array_equal(np.isnan(rows).all(-1), [0, 1, 0, 0, 0, 1, 0, 0])
    is_chosen = expected >= 0
    np.testing.assert_array_equal(rows[is_chosen], table[expected[is_chosen]])
    assert not np.any(rows[0])


def test_a_kernel_serves_many_rows_of_one_device_of_a_gpu(monkeypatch):
    logits, default = jnp.zeros((2, 3)), jax.random.key(0)
    assert not _gpu.draws_each_class(KEY, logits, 1)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    for key in (KEY, default):
        assert _gpu.draws_each_class(key, logits, 1)
        assert not _gpu.draws_each_class(key, logits, 0)
        assert not _gpu.draws_each_class(key, jnp.zeros((3, 2)), 1)
    # Cut from a multiple of four, a row of 2**14 - 1 is too long by two.
    sizes = [2**14 - 4, 2**14 - 1, 2**14, 2**14 + 1]
    served = [_jacobian.is_fused(jnp.zeros((2, size)), 1) for size in sizes]
    assert served == [True, False, True, False]
    long, single = jnp.zeros((2, 2**14 + 1)), jnp.zeros((1, 3))
    assert [_gpu.draws_each_class(KEY, rows, 1) for rows in (long, single)] == [True, True]
    assert [_gpu.draws_each_class(default, rows, 1) for rows in (long, single)] == [False, False]
    for other in (jnp.zeros((0, 3)), jnp.zeros((3, 1))):
        assert not _gpu.draws_each_class(default, other, 1)
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert not _gpu.draws_each_class(default, logits, 1)
    monkeypatch.undo()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(_kernels, "fused", lambda: None)
    assert not _gpu.draws_each_class(KEY, logits, 1)


def test_on_a_cpu_beside_a_gpu_xla_draws(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    logits = jax.random.normal(jax.random.key(1), (4, 13))
    index = gs.gumbel_max(KEY, logits)
    jax.clear_caches()
    monkeypatch.undo()
    np.testing.assert_array_equal(index, gs.gumbel_max(KEY, logits))
    jax.clear_caches()


H100 = "NVIDIA H100 80GB HBM3"
TARGET = f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472 registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 memory_bandwidth: 3352320000000
  device_memory_size: 84978434048 l2_cache_size: 52428800
  cuda_compute_capability {{ major: 9 minor: 0 }}
}}
platform_name: "CUDA" device_description_str: "{H100}"
dnn_version_info {{ major: 9 minor: 10 }} runtime_version {{ major: 13 }}
"""
"""An H100 as XLA knows one, to compile for."""


def all_kernels(impl, classes, sharding=None):
    """A program of all, lowered."""
    words = 4 if impl == "rbg" else 2
    shapes = ((words,), jnp.uint32), ((4, classes), jnp.float32)
    arguments = [jax.ShapeDtypeStruct(*shape, sharding=sharding) for shape in shapes]

    def kernels(data, logits):
        one = jnp.float32(1)
        lists = [SOFT], [HARD], [SOFT, HARD]
        samples = [x for kinds in lists for x in _fused.samples(data, logits, one, kinds)]
        if classes < 2**14:
            samples.append(_fused.jacobian_product(samples[0], one, logits, "float32"))
        return *samples, _fused.first_argmax(data, logits)

    device, auto = jax.sharding.AbstractDevice(H100, None, "gpu"), (jax.sharding.AxisType.Auto,)
    mesh = jax.sharding.AbstractMesh((1,), ("x",), auto, abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):  # which Pallas of jax 0.12 asks for the GPU
        return jax.jit(kernels).trace(*arguments).lower(lowering_platforms=("cuda",))


KERNELS = pytest.mark.parametrize(
    ("impl", "classes"), [("threefry2x32", 13), ("rbg", 13), ("rbg", 20000)]
)


@KERNELS
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jax 0.11 deprecates Pallas for Triton
def test_triton_has_all_that_kernels_compute_by(impl, classes):
    text = all_kernels(impl, classes).as_text()
    assert text.count("custom_call @__gpu$xla.gpu.triton") == (5 if classes < 2**14 else 4)


@KERNELS
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kernels_compile_for_a_gpu_that_need_not_be_there(impl, classes):
    """Lowering does not show what crashes Triton's compiler; docs/design/gpu.md says how to run."""
    pytest.importorskip("jax_plugins.xla_cuda13")
    described = topologies.get_topology_desc("", "cuda", topology="1x1x1", target_config=TARGET)
    device = jax.sharding.SingleDeviceSharding(described.devices[0])
    assert all_kernels(impl, classes, device).compile().as_text().count("triton") >= 4


@pytest.mark.parametrize("classes", [1, 3, 70, 1000])
def test_off_a_cpu_one_reduction_finds_the_first_of_equal_scores(classes):
    rows = np.random.default_rng(0).integers(0, 4, (40, classes)).astype(np.float32)
    rows[0], rows[1:3] = -np.inf, np.inf
    rows[2, 0] = rows[3, -1] = -np.inf
    expected = np.where(np.all(rows == -np.inf, 1), -1, np.argmax(rows, 1))
    rows[4, -1] = rows[5, 0] = np.nan
    expected[4:6] = -2
    for axis, scores in enumerate((rows.T, rows)):
        index = _rows.argmax_by_one_reduction(jnp.asarray(scores), axis)
        assert index.dtype == jnp.int32
        np.testing.assert_array_equal(jnp.squeeze(index, axis), expected)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
@pytest.mark.parametrize("key", [KEY, DEFAULT], ids=["rbg", "default"])
@pytest.mark.parametrize("classes", [3, 10, 16, 999, 1000, 1001, 8192, 50257])
@pytest.mark.parametrize("whose", ["kernel", "xla", "xla_beside_a_relaxed_sample"])
def test_on_a_gpu_the_index_is_that_of_the_host(whose, classes, key):
    logits = logits_of(301, classes, jnp.float32)

    def noise_and_index(logits):
        noise = gumbel_noise_like(key, logits)
        scores = _relaxed.perturbed(logits, noise, 1)
        relaxed = _relaxed.relaxed(logits, noise, jnp.float32(0.5), 1)
        return noise, relaxed, _rows.first_argmax(scores, 1)[:, 0]

    noise = jax.jit(lambda logits: noise_and_index(logits)[0])(logits)
    if whose == "kernel" and classes > 1000 and key is DEFAULT:
        pytest.skip("a block is drawn first")
    if whose == "kernel":
        index = jax.jit(functools.partial(_gpu.draw, key))(logits)[:, 0]
    elif whose == "xla":
        index = jax.jit(lambda logits: noise_and_index(logits)[2])(logits)
    else:
        index = jax.jit(lambda logits: noise_and_index(logits)[1:])(logits)[1]
    with np.errstate(invalid="ignore"):
        rows = np.asarray(logits)
        largest = np.fmax.reduce(rows, 1, keepdims=True)
        scores = np.where(rows == largest, 0, rows - largest) + np.asarray(noise)
    expected = np.argmax(np.where(np.isnan(scores), -np.inf, scores), 1)
    expected[0], expected[1] = -1, -2  # without a class, and with NaN
    np.testing.assert_array_equal(index, expected)


ON_A_GPU = [  # what takes longest to compile comes first
    *((KEY, 50257, dtype) for dtype in (jnp.float32, jnp.bfloat16)),
    *((KEY, classes, jnp.float32) for classes in (8192, 16)),
    *((KEY, classes, jnp.bfloat16) for classes in (999, 3)),
    (DEFAULT, 1001, jnp.bfloat16),
    (DEFAULT, 999, jnp.bfloat16),
    (DEFAULT, 16, jnp.float32),
]


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
@pytest.mark.parametrize(("key", "classes", "dtype"), ON_A_GPU)
def test_on_a_gpu_samples_and_gradients_are_those_of_xla(monkeypatch, key, classes, dtype):
    logits = logits_of(301, classes, dtype)
    assert _kernels.serve(logits, 1)
    cotangent = jax.random.normal(jax.random.key(6), logits.shape, dtype)

    def everything():
        def both(logits, cotangent):
            results = [gs.gumbel_max(key, logits)]
            for hard in (False, True):
                draw = functools.partial(gs.gumbel_softmax, key, temperature=0.5, hard=hard)
                sample, backward = jax.vjp(draw, logits)
                results += [draw(logits), sample, *backward(cotangent)]
            return [result.astype(jnp.float32) for result in results]

        jax.clear_caches()  # what was traced with kernels, or without
        return jax.jit(both)(logits, cotangent)

    found = everything()
    monkeypatch.setattr(_kernels, "serve", lambda *_: False)
    expected = everything()
    jax.clear_caches()
    index, soft, soft_again, gradient, hard, hard_again, gradient_of_hard = zip(
        found, expected, strict=True
    )
    for pair in (index, hard, hard_again):
        np.testing.assert_array_equal(*pair)
    tolerance = 2e-5 if dtype == jnp.float32 else 1e-2
    for pair in (soft, soft_again, gradient, gradient_of_hard):
        np.testing.assert_allclose(*pair, rtol=tolerance, atol=tolerance)
