"""What a gate gives: its law, its losses against closed forms, and the branch that it chose."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import gs_modules as gs

KEY = jax.random.key(0)
LOGITS = jax.random.normal(jax.random.key(1), (5, 4))


def gate_of(logits, weights=None, **options):
    """The output of a gate whose weights are the argmax, or those given."""
    own, law = gs.gate_law(logits, **options)
    if weights is None:
        weights = gs.draw_deterministic(law)
    return gs.gate_output(weights, own, law, 0.5)


def deterministic(logits, k=1, **options):
    own, law = gs.gate_law(logits, **options)
    return gs.gate_output(gs.draw_deterministic(law, k=k), own, law, None, k=k)


# --- law ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("unimix", [1e-8, 0.01, 0.5, 0.999])
def test_the_uniform_share_is_mixed_into_the_probabilities(unimix):
    logits = jnp.array([[2.0, -1.0, 0.5], [300.0, 0.0, -300.0], [jnp.inf, jnp.inf, 0.0]])
    own, law = gs.gate_law(logits, unimix=unimix)
    softmax = np.array([np.exp(row) / np.exp(row).sum() for row in np.float64(logits[:1])])
    softmax = np.concatenate([softmax, [[1, 0, 0], [0.5, 0.5, 0]]])
    np.testing.assert_array_equal(own, logits)
    mixed = (1 - unimix) * softmax + unimix / 3
    np.testing.assert_allclose(np.exp(law), mixed, rtol=1e-5)
    np.testing.assert_allclose(gate_of(logits, unimix=unimix).probs, mixed, rtol=1e-5)


def test_the_uniform_share_is_that_of_the_choices_left():
    where = jnp.array([[True, True, False], [False, False, False]])
    own, law = gs.gate_law(jnp.zeros((2, 3)), where=where, unimix=0.3)
    np.testing.assert_allclose(jnp.exp(law), [[0.5, 0.5, 0], [0, 0, 0]], rtol=1e-6)
    np.testing.assert_array_equal(own == -jnp.inf, ~where)
    gradient = jax.grad(lambda x: jnp.sum(gs.gate_law(x, where=where, unimix=0.3)[1][0, :2]))
    assert np.all(np.isfinite(gradient(jnp.zeros((2, 3)))))


def test_a_bias_is_added_to_the_law_and_not_to_the_logits():
    bias = jnp.array([0.0, 3.0, 0.0, -1.0])
    output = gate_of(LOGITS, bias=bias)
    np.testing.assert_array_equal(output.logits, LOGITS)
    np.testing.assert_allclose(output.probs, jax.nn.softmax(LOGITS + bias[None]), rtol=1e-6)
    with pytest.raises(ValueError, match=r"bias of shape \(3,\).*\(5, 4\)"):
        gs.gate_law(LOGITS, bias=jnp.zeros(3))
    with pytest.raises(TypeError, match="bias must be floating"):
        gs.gate_law(LOGITS, bias=jnp.zeros(4, int))


def test_choices_are_listed_by_probability_and_missing_ones_are_minus_one():
    logits = jnp.array([[0.0, 3.0, 1.0, 2.0], [jnp.nan, 0, 0, 0], [0.0, 0.0, 0.0, 0.0]])
    where = jnp.array([[True] * 4, [True] * 4, [False, False, True, False]])
    output = deterministic(logits, k=2, where=where)
    np.testing.assert_array_equal(output.index, [[1, 3], [-1, -1], [2, -1]])
    np.testing.assert_array_equal(output.weights[0], [0, 1, 0, 1])
    np.testing.assert_array_equal(output.weights[2], [0, 0, 1, 0])
    assert np.all(np.isnan(output.weights[1]))


# --- combine -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trailing", "dtype"), [((), jnp.float32), ((7,), jnp.bfloat16), ((3, 2), jnp.float16)], ids=str
)
@pytest.mark.parametrize("kind", ["list", "stacked", "functions"])
def test_a_one_hot_gate_gives_the_chosen_branch_bit_for_bit(kind, trailing, dtype):
    stacked = jax.random.normal(KEY, (4, 5, *trailing), dtype)
    branches = {
        "list": list(stacked),
        "stacked": stacked,
        "functions": [functools.partial(lambda n: stacked[n], n) for n in range(4)],
    }[kind]
    output = gate_of(LOGITS)
    combined = jax.jit(lambda gate: gate.combine(branches))(output)
    assert combined.dtype == dtype
    expected = stacked[np.asarray(LOGITS.argmax(-1)), np.arange(5)]
    np.testing.assert_array_equal(combined, expected)


def test_soft_weights_average_the_branches_and_give_every_branch_its_gradient():
    weights = jax.nn.softmax(LOGITS)
    stacked = jax.random.normal(KEY, (4, 5, 3))

    def loss(weights, stacked):
        return jnp.sum(jnp.sin(gate_of(LOGITS, weights).combine(list(stacked))))

    def expected(weights, stacked):
        return jnp.sum(jnp.sin(jnp.einsum("bn,nbd->bd", weights, stacked)))

    for found, wanted in zip(
        jax.grad(loss, (0, 1))(weights, stacked),
        jax.grad(expected, (0, 1))(weights, stacked),
        strict=True,
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_hard_gate_gets_the_gradient_of_every_branch_and_a_branch_that_of_its_examples():
    one_hot = jax.nn.one_hot(LOGITS.argmax(-1), 4)
    stacked = jax.random.normal(KEY, (4, 5, 3))

    def loss(weights, stacked):
        return jnp.sum(gate_of(LOGITS, weights).combine(stacked))

    of_weights, of_stacked = jax.grad(loss, (0, 1))(one_hot, stacked)
    np.testing.assert_allclose(of_weights, stacked.sum(-1).T, rtol=1e-6)
    np.testing.assert_array_equal(of_stacked, np.broadcast_to(one_hot.T[..., None], (4, 5, 3)))


def test_what_a_branch_that_was_not_chosen_holds_does_not_matter():
    chosen = np.asarray(LOGITS.argmax(-1))
    stacked = np.full((4, 5, 2), np.nan, np.float32)
    stacked[chosen, np.arange(5)] = 1.5
    stacked[(chosen + 1) % 4, np.arange(5)] = np.inf
    np.testing.assert_array_equal(
        gate_of(LOGITS).combine(jnp.asarray(stacked)), np.full((5, 2), 1.5)
    )


def test_an_excluded_branch_has_no_part_in_gradients_either():
    where = jnp.array([True, False, True, True])
    stacked = jnp.ones((4, 5, 2)).at[1].set(jnp.nan)

    def loss(logits, stacked):
        own, law = gs.gate_law(logits, where=where)
        weights = gs.draw(gs.StraightThroughGumbel(), KEY, law, 0.5)
        return jnp.sum(gs.gate_output(weights, own, law, 0.5).combine(stacked) ** 2)

    for gradient in jax.grad(loss, (0, 1))(LOGITS, stacked):
        assert np.all(np.isfinite(gradient))
    tangent = jax.jvp(lambda x: loss(x, stacked), (LOGITS,), (jnp.ones_like(LOGITS),))[1]
    assert np.isfinite(tangent)


@pytest.mark.parametrize("kind", ["list", "functions"])
def test_a_gate_without_a_choice_gives_zeros_and_nan_gives_nan_never_a_wrong_branch(kind):
    branches = [jnp.full((3,), 5.0), jnp.full((3,), 7.0)]
    if kind == "functions":
        branches = [lambda: jnp.full((3,), 5.0), lambda: jnp.full((3,), 7.0)]
    for make in (deterministic, gate_of):
        empty = make(jnp.zeros(2), where=jnp.array([False, False]))
        np.testing.assert_array_equal(empty.combine(branches), np.zeros(3))
        assert np.all(np.isnan(make(jnp.array([jnp.nan, 0.0])).combine(branches)))
        np.testing.assert_array_equal(
            make(jnp.array([0.0, 1.0])).combine(branches), np.full(3, 7.0)
        )


def test_a_deterministic_gate_computes_the_chosen_function_alone():
    called = []

    def branch(n):
        def compute():
            jax.debug.callback(lambda: called.append(n))
            return jnp.full((2,), float(n))

        return compute

    @jax.jit
    def chosen(logits):
        return deterministic(logits).combine([branch(n) for n in range(4)])

    for n in (2, 0, 3):
        called.clear()
        np.testing.assert_array_equal(chosen(jax.nn.one_hot(n, 4)), np.full(2, n))
        jax.effects_barrier()
        assert called == [n]


def test_branches_that_do_not_fit_are_refused_by_name():
    gate = gs.gate_output(
        jnp.eye(3), jnp.zeros((3, 3)), jnp.zeros((3, 3)), 1.0, module="GumbelGate at a/b"
    )
    a = jnp.zeros((3, 2))
    wrong = [
        ([a, a], ValueError, "3 choices.*got 2"),
        (jnp.zeros((2, 3, 2)), ValueError, "3 choices.*got 2"),
        ([a, a, jnp.zeros((3, 4))], ValueError, r"one shape, got \(3, 2\) and \(3, 4\)"),
        ([a, a, a.astype(jnp.bfloat16)], ValueError, "one dtype, got float32 and bfloat16"),
        ([jnp.zeros((4, 2))] * 3, ValueError, r"\(4, 2\) must begin with.*\(3,\)"),
        ([jnp.zeros(())] * 3, ValueError, r"\(\) must begin with.*\(3,\)"),
        ([a, a, lambda: a], TypeError, "all arrays or all functions"),
        ([jnp.zeros((3, 2), int)] * 3, TypeError, "branch must be floating"),
        (3.0, TypeError, "branches must be an array"),
        ((a for _ in range(3)), TypeError, "branches must be an array"),
        ([jnp.sin] * 3, TypeError, r"takes nothing, .* missing a required argument.*branch\(x\)"),
        ([lambda: (a[0], a[0], a[0])] * 3, TypeError, "one array, got a tuple"),
    ]
    for branches, error, message in wrong:
        with pytest.raises(error, match=rf"^GumbelGate at a/b: combine: .*{message}"):
            gate.combine(branches)
    alone = deterministic(jnp.zeros(2))
    with pytest.raises(ValueError, match="one shape"):
        alone.combine([lambda: jnp.zeros(2), lambda: jnp.zeros(3)])
    with pytest.raises(TypeError, match="floating-point array"):
        alone.combine([lambda: jnp.zeros(2, int), lambda: jnp.zeros(2, int)])


# --- losses ------------------------------------------------------------------------------------


LOSSES = ["load_balance_loss", "importance_loss", "router_z_loss", "entropy"]


def losses(output, **options):
    return {name: getattr(output, name)(**options) for name in LOSSES}


def gradient_of(name, logits, available=None, **options):
    def loss(logits):
        return getattr(gate_of(logits, where=available), name)(**options)

    return jax.grad(loss)(logits)


def test_losses_are_those_of_the_papers_in_float64():
    output = gate_of(LOGITS)
    logits = np.float64(LOGITS)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    f = np.bincount(logits.argmax(-1), minlength=4) / 5
    importance = p.sum(0)
    expected = {
        "load_balance_loss": 4 * np.sum(f * p.mean(0)),
        "importance_loss": importance.var() / importance.mean() ** 2,
        "router_z_loss": np.mean(np.log(np.exp(logits).sum(-1)) ** 2),
        "entropy": -np.mean((p * np.log(p)).sum(-1)),
    }
    for name, value in losses(output).items():
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, expected[name], rtol=2e-6)


def test_losses_of_balanced_and_of_collapsed_gates():
    balanced = losses(gate_of(jnp.zeros((4, 4)), weights=jnp.eye(4)))
    np.testing.assert_allclose(balanced["load_balance_loss"], 1, rtol=1e-6)
    assert balanced["importance_loss"] < 1e-12
    np.testing.assert_allclose(balanced["entropy"], np.log(4), rtol=1e-6)
    collapsed = losses(gate_of(jnp.array([[500.0, 0, 0, 0]] * 3)))
    np.testing.assert_allclose(collapsed["load_balance_loss"], 4, rtol=1e-6)
    np.testing.assert_allclose(collapsed["importance_loss"], 3, rtol=1e-6)
    np.testing.assert_allclose(collapsed["router_z_loss"], 250_000, rtol=1e-6)
    assert collapsed["entropy"] == 0


def test_padding_has_no_influence_and_no_gradient_and_neither_has_a_row_without_choice():
    where = jnp.array([True, True, False, True, False])
    kept = losses(gate_of(LOGITS[jnp.array([0, 1, 3])]))
    for padding in (LOGITS[2], jnp.full(4, jnp.nan), jnp.full(4, jnp.inf)):
        padded = LOGITS.at[2].set(padding)
        for name, value in losses(gate_of(padded), where=where).items():
            np.testing.assert_allclose(value, kept[name], rtol=1e-6, err_msg=name)
    for name in LOSSES:
        gradient = gradient_of(name, LOGITS, where=where)
        assert np.all(gradient[~where] == 0) and np.any(gradient[where] != 0)
    available = jnp.broadcast_to(where[:, None], LOGITS.shape)
    for name, value in losses(gate_of(LOGITS, where=available)).items():
        np.testing.assert_allclose(value, kept[name], rtol=1e-6, err_msg=name)
    for value in losses(gate_of(LOGITS), where=jnp.zeros(5, bool)).values():
        assert value == 0
    for value in losses(gate_of(LOGITS.at[0, 0].set(jnp.nan))).values():
        assert np.isnan(value)
    for method in (gs.GateOutput.entropy, gs.GateOutput.usage, gs.GateOutput.load_balance_loss):
        said = r"GumbelGate.*: where of shape \(4,\).*examples of shape \(5,\)"
        with pytest.raises(ValueError, match=said):
            method(gate_of(LOGITS), where=jnp.ones(4, bool))


def test_gradients_stay_finite_where_choices_are_excluded_or_impossible():
    logits = LOGITS.at[0].set(jnp.array([300.0, 0, 0, -300.0]))
    where = jnp.ones((5, 4), bool).at[1, 2].set(False).at[2].set(False)
    for name in LOSSES:
        gradient = gradient_of(name, logits, available=where)
        assert np.all(np.isfinite(gradient)) and np.all(gradient[~where] == 0)


@pytest.mark.parametrize("mapped", ["vmap", "shard_map"])
def test_losses_and_usage_over_a_mapped_axis_are_those_of_the_whole_batch(mapped):
    logits = jax.random.normal(KEY, (8, 4))
    where = jnp.arange(8) % 3 != 0  # the shards keep different numbers of examples

    def measured(logits, where):
        output = gate_of(logits)
        options = {"where": where, "axis_name": "data"}
        return losses(output, **options), output.usage(**options).counts

    if mapped == "vmap":
        shards = jax.tree.map(lambda leaf: leaf.reshape(2, 4, *leaf.shape[1:]), (logits, where))
        found = jax.vmap(measured, axis_name="data", out_axes=None)(*shards)
    else:
        mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
        specs = (P("data"), P("data"))
        found = jax.shard_map(measured, mesh=mesh, in_specs=specs, out_specs=P())(logits, where)
    output = gate_of(logits)
    for name, value in losses(output, where=where).items():
        np.testing.assert_allclose(found[0][name], value, rtol=1e-6)
    np.testing.assert_array_equal(found[1], output.usage(where=where).counts)


def test_gradients_of_losses_over_shards_are_those_of_the_whole_batch():
    x = jax.random.normal(KEY, (8, 3))
    kernel = jax.random.normal(jax.random.key(2), (3, 4))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))

    def total(kernel, x, axis_name=None):
        return sum(losses(gate_of(x @ kernel), axis_name=axis_name).values())

    of_shards = jax.shard_map(
        jax.grad(lambda kernel, x: total(kernel, x, "data")),
        mesh=mesh,
        in_specs=(P(), P("data")),
        out_specs=P(),
    )
    found, expected = jax.jit(of_shards)(kernel, x), jax.grad(total)(kernel, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


# --- balancing ---------------------------------------------------------------------------------


def test_a_bias_balances_a_lopsided_gate_without_a_loss():
    logits = jnp.broadcast_to(jnp.array([2.0, 0.0, -1.0]), (512, 3))
    bias = jnp.zeros(3)

    @jax.jit
    def update(bias, key):
        own, law = gs.gate_law(logits, bias=bias)
        weights = gs.draw(gs.StraightThroughGumbel(), key, law, 1.0)
        usage = gs.gate_output(weights, own, law, 1.0).usage()
        return gs.balancing_bias(bias, usage, rate=0.02), usage.perplexity

    perplexities = []
    for step in range(150):
        bias, perplexity = update(bias, jax.random.fold_in(KEY, step))
        perplexities.append(perplexity)
    # Of 3 choices; at first their probabilities are .84, .11 and .04.
    assert perplexities[0] < 1.9 and perplexities[-1] > 2.95


def test_a_bias_is_refused_by_name():
    usage = gs.Usage(jnp.zeros(3, jnp.int32))
    np.testing.assert_array_equal(gs.balancing_bias(jnp.ones(3), usage), np.ones(3))
    with pytest.raises(ValueError, match=r"bias.*\(3,\).*\(4,\)"):
        gs.balancing_bias(jnp.zeros(4), usage)
    with pytest.raises(ValueError, match="rate"):
        gs.balancing_bias(jnp.zeros(3), usage, rate=0.0)
