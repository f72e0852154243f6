"""How often each code of a latent, or each choice of a gate, is drawn: counts that merge."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from gs_modules import _arguments, _scalars
from gs_modules._types import AxisName


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Usage:
    """Counts of what was drawn, int32: ``[L, K]`` for L latents of K codes, ``[N]`` for a gate.

    Counts add up over batches, devices and epochs, so perplexity is always that of the whole and
    never an average of perplexities. A count stops at ``2**31 - 1`` and never wraps.

    Example:
        >>> usage = Usage.of(jnp.array([[0, 1], [0, 1], [0, 2]]), num_classes=4)
        >>> usage.counts.tolist()
        [[3, 0, 0, 0], [0, 2, 1, 0]]
        >>> usage = usage.merge(Usage.of(jnp.array([[1, 1]]), num_classes=4))
        >>> int(usage.codes_used), usage.list_dead()
        (4, [[2, 3], [0, 3]])
    """

    counts: jax.Array

    @classmethod
    def of(
        cls,
        index: ArrayLike,
        num_classes: int,
        *,
        where: ArrayLike | None = None,
        axis_name: AxisName | None = None,
    ) -> Usage:
        """The usage in one batch of drawn codes.

        Args:
            index: ``[N..., L]`` integer codes; all axes but the last are counted over. Codes
                outside ``0 .. num_classes - 1``, such as the -1 of a NaN row, are not counted.
            num_classes: K.
            where: boolean mask that broadcasts to ``[N...]``; False leaves an example out, padding
                for instance.
            axis_name: mapped axes, of ``jax.shard_map`` or ``jax.vmap``, to count over as well.

        Returns:
            Counts of shape ``[L, K]``.

        Raises:
            TypeError: ``index`` is not integer, ``where`` is not boolean.
            ValueError: ``index`` has no axis, or ``where`` does not broadcast.
        """
        codes = _arguments.index_array("index", index)
        if codes.ndim == 0:
            raise ValueError("index must have the shape [N..., L], got a scalar")
        num_classes = _scalars.check_count("num_classes", num_classes)
        mask = _arguments.boolean_mask(where, codes.shape[:-1], of="the examples")
        if mask is not None:
            codes = jnp.where(mask[..., None], codes, -1)
        one_hot = jax.nn.one_hot(codes, num_classes, dtype=jnp.int32)
        counts = one_hot.sum(tuple(range(codes.ndim - 1)), dtype=jnp.int32)
        return cls(counts if axis_name is None else lax.psum(counts, axis_name))

    def merge(self, other: Usage) -> Usage:
        """The usage of both together; a ``ValueError`` unless their counts have one shape."""
        if self.counts.shape != other.counts.shape:
            raise ValueError(
                f"usage of the same choices can be merged, got counts of shape "
                f"{self.counts.shape} and {other.counts.shape}"
            )
        room = _scalars.LARGEST_COUNT - self.counts
        return Usage(self.counts + jnp.minimum(other.counts, room))

    @property
    def perplexity(self) -> jax.Array:
        """``[...]`` float32, ``exp(entropy)`` of the frequencies: 1 to K; 1 without counts."""
        return _perplexity(self.counts)

    @property
    def codes_used(self) -> jax.Array:
        """How many codes were drawn at least once, over all latents."""
        return jnp.sum(self.counts > 0, dtype=jnp.int32)

    @property
    def dead(self) -> jax.Array:
        """``[..., K]`` boolean: the codes that were never drawn."""
        return self.counts == 0

    def list_dead(self) -> list:
        """The numbers of the codes that were never drawn: a list, for latents one for each.

        It reads the counts, so not under ``jax.jit``.
        """
        dead = np.asarray(self.dead)
        rows = [np.flatnonzero(row).tolist() for row in dead.reshape(-1, dead.shape[-1])]
        return rows if dead.ndim > 1 else rows[0]


@jax.jit
def _perplexity(counts: jax.Array) -> jax.Array:
    counts = counts.astype(jnp.float32)  # before the sum, which int32 may not hold
    frequency = counts / jnp.maximum(counts.sum(-1, keepdims=True), 1)
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(frequency, frequency), -1))
