"""What a model shows of itself, as arrays: reconstructions, samples, single latents, its codes."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from gs_modules import Usage, gumbel_max, gumbel_softmax
from gs_modules.train.loop import Trainer
from gs_modules.train.models import Model, Params

Split = Literal["train", "validation", "test"]

COLUMNS = 10
"""Images in a row of reconstructions and samples."""
WALK = 16
"""The most latents, and the most classes of each, that are walked through."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """Images with pixels in 0 .. 1, one a row of ``pixels``.

    Attributes:
        originals: ``[4, COLUMNS, pixels]``, the first images of the split, repeated if too few.
        reconstructed: the same shape, the decoder's means of one posterior sample each.
        sampled: ``[8, COLUMNS, pixels]``, the decoder's means of samples from the prior.
        walk: ``[latents, 1 + classes, pixels]``: the decoder's mean of the likeliest code of the
            first image, then with that one latent set to each class in turn. At most ``WALK``
            latents and classes: the first ones.
        counts: ``[L, K]``, how often a posterior sample of each image drew each class.
        image_shape: (height, width).
    """

    originals: np.ndarray
    reconstructed: np.ndarray
    sampled: np.ndarray
    walk: np.ndarray
    counts: np.ndarray
    image_shape: tuple[int, int]


def take(trainer: Trainer, params: Params, split: Split = "test") -> Pictures:
    """Asks the model for all of its pictures, in one compiled function.

    Args:
        trainer: of the run.
        params: of its model.
        split: whose images are shown.
    """
    data = trainer.data
    images: np.ndarray = getattr(data, split)
    first = images[np.arange(4 * COLUMNS) % len(images)].reshape(4, COLUMNS, -1)
    originals = first.astype(np.float32) * data.scale
    key = trainer.key("figures")
    drawn = jax.device_get(_draw(trainer.model, params, originals, images, data.scale, key))
    return Pictures(originals=originals, image_shape=data.image_shape, **drawn)


@functools.partial(jax.jit, static_argnums=0)
def _draw(
    model: Model, params: Params, x: jax.Array, images: jax.Array, scale: float, key: jax.Array
) -> dict[str, jax.Array]:
    posterior_key, prior_key, usage_key = jax.random.split(key, 3)
    latents, classes = model.prior_logits(params).shape

    def decoded(sample: jax.Array) -> jax.Array:
        rows = model.decode(params, sample.reshape(-1, latents, classes))
        return jax.nn.sigmoid(rows).reshape(*sample.shape[:-2], -1)

    def drawn(key: jax.Array, logits: jax.Array) -> jax.Array:
        return decoded(gumbel_softmax(key, logits, hard=True))

    shown = model.encode(params, x.reshape(-1, x.shape[-1])).logits
    prior = jnp.broadcast_to(model.prior_logits(params), (8, COLUMNS, latents, classes))
    index = gumbel_max(usage_key, model.encode(params, images.astype(jnp.float32) * scale).logits)
    return {
        "reconstructed": drawn(posterior_key, shown.reshape(*x.shape[:-1], latents, classes)),
        "sampled": drawn(prior_key, prior),
        "walk": decoded(_one_latent_at_a_time(shown[0].argmax(-1), classes)),
        "counts": Usage.of(index, classes).counts,
    }


def _one_latent_at_a_time(code: jax.Array, classes: int) -> jax.Array:
    """``[rows, 1 + columns, L, K]`` one-hot: ``code`` ``[L]`` itself, then one latent changed."""
    rows, columns = min(len(code), WALK), min(classes, WALK)
    walked = jnp.tile(code, (rows, 1 + columns, 1))
    latent = jnp.arange(rows)[:, None]
    walked = walked.at[latent, jnp.arange(1, 1 + columns), latent].set(jnp.arange(columns))
    return jax.nn.one_hot(walked, classes)


def wall(rows: np.ndarray, image_shape: tuple[int, int]) -> np.ndarray:
    """Images ``[R, C, pixels]`` as one, with NaN, which has no colour, between them.

    Example:
        >>> wall(np.ones((2, 3, 4)), (2, 2)).shape
        (5, 8)
    """
    height, width = image_shape
    images = rows.reshape(*rows.shape[:2], height, width)
    spaced = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    joined = spaced.transpose(0, 2, 1, 3).reshape(len(rows) * (height + 1), -1)
    return joined[:-1, :-1]


def pairs(above: np.ndarray, below: np.ndarray, image_shape: tuple[int, int]) -> np.ndarray:
    """One wall of two equal sets of images ``[R, C, pixels]``, row under row."""
    walls = [wall(np.stack(rows), image_shape) for rows in zip(above, below, strict=True)]
    gap = np.full((max(2, image_shape[0] // 3), walls[0].shape[1]), np.nan)
    return np.concatenate([part for one in walls for part in (one, gap)][:-1])


def walk_wall(walk: np.ndarray, image_shape: tuple[int, int]) -> np.ndarray:
    """The walk as one wall, what it starts from set apart."""
    start, changed = (wall(part, image_shape) for part in (walk[:, :1], walk[:, 1:]))
    gap = np.full((len(start), max(2, image_shape[1] // 3)), np.nan)
    return np.concatenate([start, gap, changed], 1)
