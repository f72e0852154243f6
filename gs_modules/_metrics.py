"""How often each code of a discrete latent is used: counts that merge, and what follows."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CodeUsage:
    """Counts of the codes drawn, ``[..., K]`` int32: for L latents ``[L, K]``.

    Counts add up over batches, devices and epochs, so perplexity is always that of the whole and
    never an average of perplexities.

    Example:
        >>> usage = CodeUsage.of(jnp.array([[0, 1], [0, 1], [0, 2]]), num_classes=4)
        >>> usage.counts.tolist()
        [[3, 0, 0, 0], [0, 2, 1, 0]]
        >>> usage = usage.merge(CodeUsage.of(jnp.array([[1, 1]]), num_classes=4))
        >>> int(usage.codes_used), usage.dead[0].tolist()
        (4, [False, False, True, True])
    """

    counts: jax.Array

    @classmethod
    def of(cls, index: jax.Array, num_classes: int) -> CodeUsage:
        """The usage in one batch of drawn codes.

        Args:
            index: ``[N..., L]`` integer codes; all axes but the last are counted over. Codes
                outside ``0 .. num_classes - 1``, such as the -1 of a NaN row, are not counted.
            num_classes: K.

        Returns:
            Counts of shape ``[L, K]``.
        """
        if not jnp.issubdtype(index.dtype, jnp.integer):
            raise TypeError(f"index must be an integer array, got {index.dtype}")
        one_hot = jax.nn.one_hot(index, num_classes, dtype=jnp.int32)
        return cls(one_hot.sum(tuple(range(index.ndim - 1))))

    def merge(self, other: CodeUsage) -> CodeUsage:
        """The usage of both together; a ``ValueError`` unless their counts have one shape."""
        if self.counts.shape != other.counts.shape:
            raise ValueError(
                f"usage of the same latents and classes can be merged, got counts of shape "
                f"{self.counts.shape} and {other.counts.shape}"
            )
        return CodeUsage(self.counts + other.counts)

    @property
    def perplexity(self) -> jax.Array:
        """``[...]`` float32, ``exp(entropy)`` of the code frequencies: 1 to K; 1 without counts."""
        return _perplexity(self.counts)

    @property
    def codes_used(self) -> jax.Array:
        """How many codes were drawn at least once, over all latents."""
        return jnp.sum(self.counts > 0)

    @property
    def dead(self) -> jax.Array:
        """``[..., K]`` boolean: the codes that were never drawn."""
        return self.counts == 0


@jax.jit
def _perplexity(counts: jax.Array) -> jax.Array:
    total = jnp.maximum(counts.sum(-1, keepdims=True), 1)
    frequency = counts.astype(jnp.float32) / total.astype(jnp.float32)
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(frequency, frequency), -1))
