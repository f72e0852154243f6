"""What ``CategoricalLatent`` reads, in every framework, and what it returns."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from gs_modules import _arguments
from gs_modules._metrics import Usage
from gs_modules._modules import sample_output, temperature_output
from gs_modules._objectives import categorical_kl
from gs_modules._relaxed import masked
from gs_modules._rows import first_argmax, row_index
from gs_modules._types import AxisName, Prior


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LatentOutput:
    """What ``CategoricalLatent`` returns: L latents of K classes per example.

    Attributes:
        sample: ``[..., L, K]``, the sample of the estimator; one-hot for all but ``Pathwise``.
        index: ``[..., L]`` int32, the class with the largest weight before rounding; -1 where the
            sample is NaN or no class is left.
        logits: ``[..., L, K]``, the unnormalised log-probabilities that the sample was drawn from;
            ``-inf`` where excluded.
        kl: ``[...]`` float32 (float64 for float64 logits), KL divergence from the prior summed
            over the latents, in nats.
        temperature: float32, what the sample was drawn at, of the shape it was given in: a scalar,
            or one for each row; NaN in a deterministic call, which ``jax_debug_nans`` takes
            for an error where it is returned from ``jax.jit``.
        deterministic: True when ``sample`` is the argmax, without noise and without gradient.
    """

    sample: jax.Array
    index: jax.Array
    logits: jax.Array
    kl: jax.Array
    temperature: jax.Array
    deterministic: bool = dataclasses.field(metadata={"static": True})

    def usage(
        self,
        *,
        where: ArrayLike | None = None,
        axis_name: AxisName | None = None,
    ) -> Usage:
        """How often each code was drawn in this batch, ``[L, K]``; see ``Usage.of``."""
        classes = self.logits.shape[-1]
        return Usage.of(self.index, classes, where=where, axis_name=axis_name)


def latent_logits(x: ArrayLike, num_latents: int, num_classes: int) -> jax.Array:
    """An encoder's output as ``[..., L, K]`` logits.

    Args:
        x: ``[..., L * K]`` (always so for one latent) or ``[..., L, K]``.
        num_latents: L.
        num_classes: K.

    Raises:
        ValueError: another shape.

    Example:
        >>> latent_logits(jnp.zeros((2, 12)), 3, 4).shape
        (2, 3, 4)
    """
    array = _arguments.floating_array("logits", x)
    if num_latents > 1 and array.shape[-2:] == (num_latents, num_classes):
        return array
    if array.ndim and array.shape[-1] == num_latents * num_classes:
        return array.reshape(*array.shape[:-1], num_latents, num_classes)
    nested = f" or [..., {num_latents}, {num_classes}]" if num_latents > 1 else ""
    raise ValueError(
        f"{num_latents} latents of {num_classes} classes take logits of shape "
        f"[..., {num_latents * num_classes}]{nested}, got {array.shape}"
    )


def has_learned_prior(prior: Prior) -> bool:
    """Whether ``prior`` asks for a parameter; a ``ValueError`` for an unknown one.

    Example:
        >>> has_learned_prior("uniform")
        False
    """
    if prior not in ("uniform", "learned"):
        raise ValueError(f"prior must be 'uniform' or 'learned', got {prior!r}")
    return prior == "learned"


def latent_output(
    sample: jax.Array,
    logits: jax.Array,
    prior_logits: jax.Array | None,
    temperature: ArrayLike | None,
    *,
    where: ArrayLike | None = None,
    dtype: DTypeLike | None = None,
) -> LatentOutput:
    """The output of ``CategoricalLatent``; ``temperature`` is None in a deterministic call.

    Example:
        >>> latent_output(jnp.eye(2), jnp.zeros((2, 2)), None, 0.5).index.tolist()
        [0, 1]
    """
    logits, axis, mask = _arguments.categories(logits, -1, where)
    kl = categorical_kl(logits, prior_logits, where=mask).sum(-1)
    weights = jnp.where(sample == 0, -jnp.inf, sample)  # a row of zeros has no index
    return LatentOutput(
        sample=sample_output(sample, logits, dtype),
        index=row_index(first_argmax(weights, axis), axis),
        logits=masked(logits, mask),
        kl=kl,
        temperature=temperature_output(temperature),
        deterministic=temperature is None,
    )
