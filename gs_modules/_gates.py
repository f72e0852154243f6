"""What ``GumbelGate`` returns in every framework: weights, choices, and losses that keep them."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from gs_modules import _arguments
from gs_modules._branches import Branches, combined
from gs_modules._metrics import Usage
from gs_modules._modules import sample_output, temperature_output
from gs_modules._relaxed import log_probabilities
from gs_modules._subset import largest_first
from gs_modules._types import AxisName


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
    weight: if it is too small, choices that are never made get too little gradient, and die.
    ``where`` is a boolean mask that broadcasts to ``[...]``: False leaves an example
    out, padding for instance. ``axis_name`` names mapped axes, of ``jax.shard_map`` or
    ``jax.vmap``, that hold further examples; under ``jax.jit`` alone none is needed. Examples with
    no choice left are left out; without any example a loss is 0. A choice that is excluded for
    every example still counts among the N. A NaN is never hidden: that of an example that ``where``
    leaves out does not reach a loss, but its gradient, where 0 * NaN is NaN.

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
            is_one_choice = self.deterministic and self.index.shape == (1,)
            chosen = self.index[0] if is_one_choice else None
            return combined(self.weights, self.logits, branches, chosen)

    def usage(self, *, where: ArrayLike | None = None, axis_name: AxisName | None = None) -> Usage:
        """How often each choice was made in this batch; counts ``[N]`` that merge."""
        mask = self._examples(where)
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
        mask = self._examples(where)
        return has_choice if mask is None else has_choice & mask

    def _examples(self, where: ArrayLike | None) -> jax.Array | None:
        with _arguments.errors_of(self.module):
            return _arguments.boolean_mask(where, self.index.shape[:-1], of="the examples")

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
    return GateOutput(
        weights=sample_output(weights, logits, dtype),
        index=largest_first(jnp.where(is_chosen, rank, -jnp.inf), k),
        probs=jnp.exp(log_probabilities(law, law.ndim - 1)),
        logits=logits,
        temperature=temperature_output(temperature),
        deterministic=temperature is None,
        module=module,
    )
