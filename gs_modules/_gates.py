"""What ``GumbelGate`` reads, in every framework, and what it returns: a choice among branches."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from gs_modules import _arguments
from gs_modules._estimators import StraightThroughGumbel
from gs_modules._metrics import Usage
from gs_modules._modules import sample_output
from gs_modules._relaxed import (
    computing_logits,
    log_probabilities,
    with_derivative_of,
)
from gs_modules._subset import largest_first
from gs_modules._types import AxisName, Estimator

Branches = ArrayLike | Sequence[ArrayLike] | Sequence[Callable[[], ArrayLike]]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["weights", "index", "probs", "logits", "temperature"],
    meta_fields=["deterministic"],
    drop_fields=["module"],
)
@dataclasses.dataclass(frozen=True)
class GateOutput:
    """What ``GumbelGate`` returns: weights of N choices, k of them chosen, for each example.

    The losses are means over the examples, in float32, for the loss of the model to add with a
    weight: one too small for its gradient to reach choices that are never made lets them die.
    ``where`` is a boolean mask that broadcasts to ``[...]``: False leaves an example
    out, padding for instance. ``axis_name`` names mapped axes, of ``jax.shard_map`` or
    ``jax.vmap``, that hold further examples; under ``jax.jit`` alone none is needed. Examples with
    no choice left are left out; without any example a loss is 0. A NaN is not hidden; that of an
    example left out has no part in a loss, but in its gradient, where 0 * NaN is NaN.

    Attributes:
        weights: ``[..., N]``, the sample of the estimator: k-hot, for ``Pathwise`` relaxed.
        index: ``[..., k]`` int32, what was chosen, the most probable first; -1 where the logits
            are NaN or fewer than k choices are left.
        probs: ``[..., N]`` float32, the probabilities that one choice was drawn with, bias and
            uniform share included; 0 where excluded.
        logits: ``[..., N]`` float32, before bias and uniform share; ``-inf`` where excluded.
        temperature: float32, what the sample was drawn at, of the shape it was given in: a scalar,
            or one for each example; NaN in a deterministic call, which ``jax_debug_nans`` takes for
            an error where it is returned from ``jax.jit``.
        deterministic: True when ``weights`` are those of the most probable choices, without noise
            and without gradient.
        module: the class and path of the gate, for errors; lost when passed through a transform.

    Example:
        >>> from gs_modules.nnx import GumbelGate
        >>> from flax import nnx
        >>> gate = GumbelGate(3, in_features=5, rngs=nnx.Rngs(0))(jnp.ones((2, 5)))
        >>> gate.combine([jnp.zeros((2, 7)), jnp.ones((2, 7)), jnp.ones((2, 7))]).shape
        (2, 7)
        >>> gate.usage().counts.sum().item()
        2
    """

    weights: jax.Array
    index: jax.Array
    probs: jax.Array
    logits: jax.Array
    temperature: jax.Array
    deterministic: bool
    module: str = dataclasses.field(default="GumbelGate", compare=False)

    def combine(self, branches: Branches) -> jax.Array:
        """``sum_n weights[..., n] * branches[n]``: the chosen branch where one-hot, bit for bit but
        the sign of 0 and subnormal numbers.

        Args:
            branches: one for each of the N choices, all floating, of one shape ``[..., *trailing]``
                that begins with the axes of ``weights`` and goes on as it likes: a list, or
                stacked ``[N, ..., *trailing]``; or a list of functions of nothing that give them.
                With functions, a deterministic gate, k = 1 and one choice for the whole call
                (``weights`` of shape ``[N]``), the chosen one alone is computed, under
                ``jax.jit``; they must then be pure.

        Returns:
            ``[..., *trailing]`` in the dtype of the branches. A branch of weight 0 adds nothing,
            whatever it holds, NaN included; an excluded one has no part in gradients either. Zeros
            where no choice is left, NaN where the logits are.

        Raises:
            TypeError: the branches are neither arrays nor functions, or not floating.
            ValueError: there are not N branches, or their shapes or dtypes do not fit.
        """
        with _arguments.errors_of(f"{self.module}: combine"):
            return _combine(self, branches)

    def usage(self, *, where: ArrayLike | None = None, axis_name: AxisName | None = None) -> Usage:
        """How often each choice was made in this batch; counts ``[N]`` that merge."""
        mask = _arguments.boolean_mask(where, self.index.shape[:-1], of="the examples")
        of_index = None if mask is None else mask[..., None]
        num_choices = self.probs.shape[-1]
        usage = Usage.of(self.index[..., None], num_choices, where=of_index, axis_name=axis_name)
        return Usage(usage.counts[0])

    def load_balance_loss(
        self, *, where: ArrayLike | None = None, axis_name: AxisName | None = None
    ) -> jax.Array:
        """``N * sum_n f_n * p_n``: share of the choices made times mean probability.

        1 when all N choices are equally frequent and probable, N when there is but one; its
        gradient is that of the mean probabilities.

        References:
            Fedus, Zoph, Shazeer (2021), https://arxiv.org/abs/2101.03961, equation 4.
        """
        counts = self.usage(where=where, axis_name=axis_name).counts.astype(self.probs.dtype)
        share = counts / jnp.maximum(counts.sum(), 1)
        return counts.size * jnp.sum(share * self._mean(self.probs, where, axis_name))

    def importance_loss(
        self, *, where: ArrayLike | None = None, axis_name: AxisName | None = None
    ) -> jax.Array:
        """The squared coefficient of variation of the summed probabilities: 0 when balanced.

        References:
            Shazeer et al. (2017), https://arxiv.org/abs/1701.06538, equation 7.
        """
        importance = self._mean(self.probs, where, axis_name)
        mean = importance.mean()
        return jnp.var(importance) / jnp.where(mean == 0, 1, mean**2)

    def router_z_loss(
        self, *, where: ArrayLike | None = None, axis_name: AxisName | None = None
    ) -> jax.Array:
        """The mean of ``logsumexp(logits)**2``: keeps the logits small.

        References:
            Zoph et al. (2022), https://arxiv.org/abs/2202.08906, equation 5.
        """
        logits = jnp.where(self._counted(where)[..., None], self.logits, 0)
        return self._mean(jax.nn.logsumexp(logits, -1) ** 2, where, axis_name)

    def entropy(
        self, *, where: ArrayLike | None = None, axis_name: AxisName | None = None
    ) -> jax.Array:
        """The mean of ``-sum_n probs_n log probs_n``, in nats: 0 when decided, at most ``log N``.

        Added to a loss it makes choices decided; subtracted, it keeps them exploring.
        """
        probs = jnp.where(self.probs == 0, 1, self.probs)  # 0 log 0 is 0, with gradient 0
        return self._mean(-jnp.sum(probs * jnp.log(probs), -1), where, axis_name)

    def _counted(self, where: ArrayLike | None) -> jax.Array:
        """``[...]`` boolean: the examples that count."""
        has_choice = jnp.any(self.logits != -jnp.inf, -1)
        mask = _arguments.boolean_mask(where, has_choice.shape, of="the examples")
        return has_choice if mask is None else has_choice & mask

    def _mean(
        self, values: jax.Array, where: ArrayLike | None, axis_name: AxisName | None
    ) -> jax.Array:
        """The mean of ``[..., *trailing]`` over the examples that count."""
        counted = self._counted(where)
        axes = tuple(range(counted.ndim))
        trailing = (1,) * (values.ndim - counted.ndim)
        is_counted = counted.reshape(*counted.shape, *trailing)
        total = jnp.where(is_counted, values, 0).sum(axes)
        count = counted.sum(dtype=values.dtype)
        if axis_name is not None:
            total, count = lax.psum((total, count), axis_name)
        return total / jnp.maximum(count, 1)


def check_gate(num_choices: int, k: int, estimator: Estimator, unimix: float) -> None:
    """Refuses what cannot be a gate.

    Raises:
        TypeError: ``num_choices`` or ``k`` is no integer, ``unimix`` no number.
        ValueError: ``num_choices`` is not positive, ``k`` is not in ``1 .. num_choices``,
            ``unimix`` is not in [0, 1), or ``k > 1`` with another estimator than the default.

    Example:
        >>> check_gate(4, 2, StraightThroughGumbel(), 0.01)
    """
    num_choices = _arguments.positive_count("num_choices", num_choices)
    k = _arguments.positive_count("k", k, num_choices)
    if k > 1 and estimator != StraightThroughGumbel():
        raise ValueError(
            f"k = {k} choices are drawn by gumbel_top_k, not by {estimator!r}; write "
            f"estimator=StraightThroughGumbel() or k=1"
        )
    if isinstance(unimix, (bool, np.bool_)) or not isinstance(unimix, (int, float, np.number)):
        raise TypeError(f"unimix must be a number, got {unimix!r}")
    if not 0 <= unimix < 1:
        raise ValueError(f"unimix, the uniform share, must be in [0, 1), got {unimix!r}")


def gate_features(x: ArrayLike) -> jax.Array:
    """The input of a gate, ``[..., D]``, in float32 whatever the dtype of the model.

    Raises:
        TypeError: not floating.
        ValueError: a scalar.

    Example:
        >>> gate_features(jnp.ones((2, 5), jnp.bfloat16)).dtype
        dtype('float32')
    """
    features = _arguments.floating_array("x", x)
    if features.ndim == 0:
        raise ValueError("x must have the shape [..., D], got a scalar")
    return features.astype(jnp.float32)


def gate_law(
    logits: ArrayLike,
    *,
    where: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    unimix: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """A gate's own logits, and those of the law that its choice is drawn from.

    The law is ``(1 - unimix) * softmax(logits + bias) + unimix / M`` over the M choices that are
    not excluded.

    Args:
        logits: ``[..., N]`` floating, unnormalised log-probabilities.
        where: boolean mask that broadcasts to ``logits``; False excludes a choice.
        bias: floating, broadcasts to ``logits`` and is added to them.
        unimix: in [0, 1).

    Returns:
        Both ``[..., N]`` float32 (float64 for float64 logits), ``-inf`` where excluded.

    Raises:
        TypeError: ``logits`` or ``bias`` are not floating, ``where`` is not boolean.
        ValueError: there is no choice, or ``where`` or ``bias`` do not broadcast.

    References:
        Hafner et al. (2023), https://arxiv.org/abs/2301.04104, for the uniform share.

    Example:
        >>> _, law = gate_law(jnp.array([50.0, 0.0]), unimix=0.01)
        >>> [round(p, 4) for p in jax.nn.softmax(law).tolist()]
        [0.995, 0.005]
    """
    array, axis, mask = _arguments.categories(logits, -1, where)
    law = logits = computing_logits(array, mask)
    if bias is not None:
        law = law + _arguments.like_logits("bias", bias, logits).astype(law.dtype)
    return logits, _with_uniform_share(law, unimix, axis) if unimix else law


def gate_output(
    weights: jax.Array,
    logits: jax.Array,
    law: jax.Array,
    temperature: ArrayLike | None,
    *,
    k: int = 1,
    dtype: DTypeLike | None = None,
    module: str = "GumbelGate",
) -> GateOutput:
    """The output of ``GumbelGate``; ``temperature`` is None in a deterministic call.

    Args:
        weights: ``[..., N]``, the sample.
        logits: ``[..., N]``, the gate's own.
        law: ``[..., N]``, those that the sample was drawn from.
        temperature: what it was drawn at.
        k: how many choices are made.
        dtype: of the weights; that of the logits by default.
        module: class and path of the gate, for errors.

    Example:
        >>> gate_output(jnp.eye(3), jnp.zeros((3, 3)), jnp.zeros((3, 3)), 0.5).index.tolist()
        [[0], [1], [2]]
    """
    rank = weights if k == 1 else law
    is_chosen = jnp.abs(weights) > 0  # False for NaN
    reported = math.nan if temperature is None else temperature
    return GateOutput(
        weights=sample_output(weights, logits, dtype),
        index=largest_first(jnp.where(is_chosen, rank, -jnp.inf), k),
        probs=jnp.exp(log_probabilities(law, law.ndim - 1)),
        logits=logits,
        temperature=jnp.asarray(reported, jnp.float32),
        deterministic=temperature is None,
        module=module,
    )


def balancing_bias(bias: jax.Array, usage: Usage, rate: float = 1e-3) -> jax.Array:
    """The bias of a gate after one more update: ``bias + rate * sign(mean count - count)``.

    Choices that were made too often become less probable, without a loss and so without a gradient
    that works against the model's. Call the gate with ``bias=``, this once for each update.

    Args:
        bias: ``[N]``, zeros at first.
        usage: of the gate since the last update.
        rate: the change of a logit, positive.

    Returns:
        ``[N]`` in the dtype of ``bias``.

    Raises:
        TypeError: ``bias`` is not floating, ``rate`` is no number.
        ValueError: the shapes differ, or ``rate`` is not positive.

    References:
        Wang et al. (2024), https://arxiv.org/abs/2408.15664.

    Example:
        >>> balancing_bias(jnp.zeros(3), Usage(jnp.array([8, 1, 3])), rate=0.5).tolist()
        [-0.5, 0.5, 0.5]
    """
    bias = _arguments.floating_array("bias", bias)
    if bias.shape != usage.counts.shape:
        raise ValueError(
            f"bias must have the shape of the counts, {usage.counts.shape}, got {bias.shape}"
        )
    counts = usage.counts.astype(jnp.float32)
    change = _arguments.positive_number("rate", rate) * jnp.sign(counts.mean() - counts)
    return bias + change.astype(bias.dtype)


@functools.partial(jax.jit, static_argnums=(1, 2), inline=True)
def _with_uniform_share(law: jax.Array, share: float, axis: int) -> jax.Array:
    is_possible = law != -jnp.inf
    count = jnp.sum(is_possible, axis, keepdims=True)
    log_uniform = math.log(share) - jnp.log(jnp.maximum(count, 1).astype(law.dtype))
    own = log_probabilities(law, axis) + math.log1p(-share)
    return jnp.where(is_possible, jnp.logaddexp(own, log_uniform), -jnp.inf)


def _combine(gate: GateOutput, branches: Any) -> jax.Array:
    num_choices = gate.weights.shape[-1]
    try:
        count = len(branches)
    except TypeError:
        raise TypeError(
            f"branches must be an array [N, ...], a list of arrays or a list of functions of "
            f"nothing, got {type(branches).__name__}"
        ) from None
    if count != num_choices:
        raise ValueError(f"the gate has {num_choices} choices: give as many branches, got {count}")
    are_functions = {callable(branch) for branch in branches}
    if len(are_functions) > 1:
        raise TypeError("branches must be all arrays or all functions of nothing, got some of each")
    if are_functions == {True}:
        _check_functions(branches)
    if are_functions == {True} and gate.deterministic and gate.index.shape == (1,):
        return _chosen_alone(gate, branches)
    values = [branch() for branch in branches] if are_functions == {True} else branches
    for value in values:
        if isinstance(value, (tuple, list)):
            raise TypeError(f"a branch must be one array, got a {type(value).__name__}")
    arrays = [_arguments.floating_array("branch", value) for value in values]
    _check_branches(arrays, gate.weights.shape[:-1])
    return _weighted_sum(gate.weights, gate.logits, arrays)


def _check_functions(branches: Sequence[Callable[..., Any]]) -> None:
    """That each can be called with nothing, unlike a module of Flax or Haiku."""
    for branch in branches:
        try:
            inspect.signature(branch).bind()
        except TypeError as error:
            raise TypeError(
                f"a branch that is a function takes nothing, got {type(branch).__name__} with a "
                f"{error}; give what it returns, branch(x), or lambda: branch(x)"
            ) from None
        except ValueError:  # of a builtin, which has no signature
            continue


def _check_branches(branches: Sequence[Any], batch: tuple[int, ...]) -> None:
    """That arrays, or the shapes and dtypes of arrays, are of one kind that fits the gate."""
    for what in ("shape", "dtype"):
        found = list(dict.fromkeys(str(getattr(branch, what)) for branch in branches))
        if len(found) > 1:
            raise ValueError(f"branches must have one {what}, got {' and '.join(found)}")
    if branches[0].shape[: len(batch)] != batch:
        raise ValueError(
            f"branches of shape {branches[0].shape} must begin with the axes of the gate's weights "
            f"but the last: {batch}"
        )


@functools.partial(jax.jit, inline=True)
def _weighted_sum(weights, logits, branches):
    dtype = branches[0].dtype
    trailing = (1,) * (branches[0].ndim - weights.ndim + 1)
    computing = _arguments.computing_dtype(dtype)

    def of_branch(per_choice, n):
        return per_choice[..., n].reshape(*per_choice.shape[:-1], *trailing)

    def total(left_out):
        """Without the branches that ``left_out`` names, whose NaN would survive a weight of 0."""
        terms = [
            jnp.where(
                of_branch(left_out, n),
                0,
                of_branch(weights, n).astype(computing) * branch.astype(computing),
            )
            for n, branch in enumerate(branches)
        ]
        return functools.reduce(jnp.add, terms).astype(dtype)

    return with_derivative_of(total(weights == 0), total(logits == -jnp.inf))


def _chosen_alone(gate: GateOutput, branches: Sequence[Callable[[], jax.Array]]) -> jax.Array:
    shapes = [jax.eval_shape(branch) for branch in branches]
    for shape in shapes:
        if not jnp.issubdtype(getattr(shape, "dtype", jnp.int32), jnp.floating):
            raise TypeError(f"a branch must give a floating-point array, got {shape}")
    _check_branches(shapes, ())

    def none() -> jax.Array:  # zeros, or NaN where the logits are
        return jnp.full(shapes[0].shape, gate.weights.sum().astype(shapes[0].dtype))

    chosen = gate.index[0]
    number = jnp.where(chosen < 0, len(branches), chosen)
    return lax.switch(number, [*branches, none])
