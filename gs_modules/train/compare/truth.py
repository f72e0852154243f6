"""The true gradient of an expected loss of categorical samples: enumerated, or estimated."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gs_modules import categorical_log_prob, gumbel_max, leave_one_out_reinforce
from gs_modules.train.compare.blocks import BLOCKS, block_size, squared_norm, standard_error

Loss = Callable[[jax.Array], jax.Array]
"""``sample [..., L, K] -> [...]``: a number for each row, which depends on that row alone."""

ENUMERABLE = 2**16
"""Outcomes ``K**L`` of a row up to which the true gradient is a sum over all of them."""

TOGETHER = 64
"""Samples computed side by side: enough to fill the processor, few enough for its memory."""


class ComparisonError(ValueError):
    """Nothing can be compared; for a person to read."""


@dataclasses.dataclass(frozen=True, eq=False)
class Truth:
    """The gradient of the expected loss by the logits, summed over the rows.

    Attributes:
        blocks: ``[BLOCKS, ..., L, K]`` float64, independent unbiased estimates; all equal if exact.
        method: how they were made.
        count: outcomes of a row that were enumerated, or samples that were drawn.
    """

    blocks: np.ndarray
    method: Literal["enumeration", "leave_one_out"]
    count: int

    @property
    def gradient(self) -> np.ndarray:
        """``[..., L, K]``, the mean of the blocks."""
        return self.blocks.mean(0)

    @property
    def norm(self) -> float:
        """Of the gradient, with the noise taken out."""
        return math.sqrt(squared_norm(self.blocks)[0])

    @property
    def standard_error(self) -> float:
        """Of the gradient as a vector; 0 if exact."""
        return 0.0 if self.method == "enumeration" else standard_error(self.blocks)


def true_gradient(
    key: jax.Array,
    loss: Loss,
    logits: jax.Array,
    *,
    samples: int = 65_536,
    enumerable: int = ENUMERABLE,
) -> Truth:
    """The gradient of ``E loss(D)`` by the logits, D one-hot and drawn from ``softmax(logits)``.

    By enumeration where a row has few enough outcomes, otherwise by leave-one-out REINFORCE
    (Kool, van Hoof, Welling 2019, https://openreview.net/forum?id=r1lgTGL5DE).

    Args:
        key: of the samples; enumeration takes none.
        loss: ``[..., L, K] -> [...]``, a number for each row, which depends on that row alone.
        logits: ``[..., L, K]``, L latents of K classes for each row.
        samples: drawn for each row where they are too many to enumerate; rounded up to whole
            blocks.
        enumerable: outcomes ``K**L`` of a row up to which all are enumerated.

    Raises:
        ComparisonError: the gradient is not finite, or cannot be told from 0 at 5 standard errors.
        ValueError: the loss does not return a number for each row.
    """
    _check_loss(loss, logits)
    latents, classes = logits.shape[-2:]
    if classes**latents <= enumerable:
        count = classes**latents
        gradient = np.asarray(jax.jit(functools.partial(_enumerated, loss))(logits), np.float64)
        truth = Truth(np.broadcast_to(gradient, (BLOCKS, *gradient.shape)), "enumeration", count)
    else:
        size = block_size(samples)
        keys = jax.random.split(key, (BLOCKS, size))
        blocks = jax.jit(functools.partial(_leave_one_out_blocks, loss))(keys, logits)
        truth = Truth(np.asarray(blocks, np.float64), "leave_one_out", BLOCKS * size)
    if not np.isfinite(truth.blocks).all():
        raise ComparisonError("the true gradient is not finite: the loss or the logits are not")
    squared, error = squared_norm(truth.blocks)
    if squared <= 5 * error:
        raise ComparisonError(
            f"the true gradient cannot be told from 0: its squared norm is {squared:.3g}, with a "
            f"standard error of {error:.3g}; more samples may mend it: truth_samples, as a flag "
            f"--truth-samples"
        )
    return truth


def _check_loss(loss: Loss, logits: jax.Array) -> None:
    """Refuses logits without latents and classes, and a loss without a number for each row."""
    if logits.ndim < 2:
        raise ValueError(
            f"logits must be [..., L, K], got shape {logits.shape}; write logits[None]"
        )
    shape = jax.eval_shape(loss, logits).shape
    if shape != logits.shape[:-2]:
        raise ValueError(
            f"loss must return a number for each row of logits {logits.shape}: shape "
            f"{logits.shape[:-2]}, got {shape}"
        )


def _enumerated(loss: Loss, logits: jax.Array) -> jax.Array:
    """``sum_D p(D) loss(D) (D - softmax(logits))``, over all outcomes, some at a time."""
    latents, classes = logits.shape[-2:]
    rows, dtype = logits.shape[:-2], logits.dtype
    log_p = jax.nn.log_softmax(logits)
    # The loss of the likeliest outcome as a baseline changes nothing but the rounding.
    baseline = loss(jax.nn.one_hot(logits.argmax(-1), classes, dtype=dtype))
    place = classes ** jnp.arange(latents)

    def add(number: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        outcomes = number * TOGETHER + jnp.arange(TOGETHER)

        def of_outcome(outcome: jax.Array) -> tuple[jax.Array, jax.Array]:
            one_hot = jax.nn.one_hot(outcome // place % classes, classes, dtype=dtype)
            sample = jnp.broadcast_to(one_hot, logits.shape)
            p = jnp.exp(jnp.where(sample > 0, log_p, 0).sum((-1, -2)))
            is_possible = (outcome < classes**latents) & (p > 0)
            weighted = jnp.where(is_possible, p * (loss(sample) - baseline), 0)
            return weighted, weighted[..., None, None] * sample

        added = jax.vmap(of_outcome)(outcomes)
        return jax.tree.map(lambda total, more: total + more.sum(0), sums, added)

    zeros = (jnp.zeros(rows, dtype), jnp.zeros(logits.shape, dtype))
    chunks = -(-(classes**latents) // TOGETHER)
    mean, with_outcome = lax.fori_loop(0, chunks, add, zeros)
    return with_outcome - mean[..., None, None] * jnp.exp(log_p)


def _leave_one_out_blocks(loss: Loss, keys: jax.Array, logits: jax.Array) -> jax.Array:
    """Estimates ``[BLOCKS, ..., L, K]`` from keys ``[BLOCKS, samples]``."""
    return lax.map(lambda keys: _leave_one_out(loss, keys, logits), keys)


def _leave_one_out(loss: Loss, keys: jax.Array, logits: jax.Array) -> jax.Array:
    classes = logits.shape[-1]

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        index = gumbel_max(key, logits)
        return index, loss(jax.nn.one_hot(index, classes, dtype=logits.dtype))

    index, losses = lax.map(draw, keys, batch_size=min(TOGETHER, len(keys)))

    def objective(logits: jax.Array) -> jax.Array:
        log_probs = jax.vmap(categorical_log_prob, (0, None))(index, logits).sum(-1)
        return leave_one_out_reinforce(losses, log_probs).sum()

    return jax.grad(objective)(logits)
