"""The law of ``GumbelGate``: what it reads, in every framework, and what it draws from."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gs_modules import _arguments, _scalars
from gs_modules._estimators import StraightThroughGumbel
from gs_modules._metrics import Usage
from gs_modules._relaxed import computing_logits, log_probabilities
from gs_modules._types import Estimator


def check_gate(
    num_choices: int, k: int, estimator: Estimator, unimix: float
) -> tuple[int, int, float]:
    """``num_choices``, ``k`` and ``unimix`` as Python numbers, or a refusal of what is no gate.

    Raises:
        TypeError: ``num_choices`` or ``k`` is no integer, ``unimix`` no number.
        ValueError: ``num_choices`` is not positive, ``k`` is not in ``1 .. num_choices``,
            ``unimix`` is not in [0, 1), or ``k > 1`` with another estimator than the default.

    Example:
        >>> check_gate(4, 2, StraightThroughGumbel(), 0.01)
        (4, 2, 0.01)
    """
    num_choices = _scalars.check_count("num_choices", num_choices)
    k = _scalars.check_count("k", k, num_choices)
    if k > 1 and estimator != StraightThroughGumbel():
        raise ValueError(
            f"k = {k} choices are drawn by gumbel_top_k, not by {estimator!r}; write "
            f"estimator=StraightThroughGumbel() or k=1"
        )
    share = _scalars.number("unimix", unimix)
    if not 0 <= share < 1:
        raise ValueError(f"unimix, the uniform share, must be in [0, 1), got {unimix!r}")
    return num_choices, k, share


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


def balancing_bias(bias: jax.Array, usage: Usage, rate: float = 1e-3) -> jax.Array:
    """The bias of a gate after one more update: ``bias + rate * sign(mean count - count)``.

    Choices that were made too often become less probable, without a loss and so without a gradient
    that works against the model's. Call the gate with ``bias=``, this once for each update.

    Args:
        bias: ``[N]``, zeros at first, best in float32: in bfloat16, 1 does not move by 1e-3.
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
    change = _scalars.positive_number("rate", rate) * jnp.sign(counts.mean() - counts)
    return bias + change.astype(bias.dtype)


@functools.partial(jax.jit, static_argnums=(1, 2), inline=True)
def _with_uniform_share(law: jax.Array, share: float, axis: int) -> jax.Array:
    is_possible = law != -jnp.inf
    count = jnp.sum(is_possible, axis, keepdims=True)
    log_uniform = math.log(share) - jnp.log(jnp.maximum(count, 1).astype(law.dtype))
    own = log_probabilities(law, axis) + math.log1p(-share)
    return jnp.where(is_possible, jnp.logaddexp(own, log_uniform), -jnp.inf)
