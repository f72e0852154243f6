"""Pictures of a run: reconstructions, samples, curves and the use of codes."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from gs_modules import Usage, gumbel_max, gumbel_softmax
from gs_modules.train.data import Dataset
from gs_modules.train.models import Model, Params
from gs_modules.train.run_directory import write_whole

GRID = 10
"""Pictures are ``GRID`` columns wide."""


def write_figures(
    folder: Path,
    model: Model,
    params: Params,
    data: Dataset,
    records: list[dict[str, Any]],
    key: jax.Array,
) -> list[Path]:
    """Draws the four pictures of a run into ``folder`` and returns their paths."""
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    shown = data.test[np.arange(4 * GRID) % len(data.test)].astype(np.float32) * data.scale
    drawn = jax.device_get(_draw(model, params, shown, data.test, data.scale, key))
    figures = {
        "reconstructions.png": reconstructions(shown, drawn["reconstructed"], data.image_shape),
        "samples.png": prior_samples(drawn["sampled"], data.image_shape),
        "curves.png": curves(records),
        "code_usage.png": code_usage(drawn["counts"]),
    }
    for name, figure in figures.items():
        picture = io.BytesIO()
        figure.savefig(picture, dpi=120)
        write_whole(folder / name, picture.getvalue())
    return [folder / name for name in figures]


@functools.partial(jax.jit, static_argnums=0)
def _draw(
    model: Model, params: Params, x: jax.Array, test: jax.Array, scale: float, key: jax.Array
) -> dict[str, jax.Array]:
    """What the pictures show of the model, in one compiled function."""
    posterior_key, prior_key, usage_key = jax.random.split(key, 3)

    def decoded(key: jax.Array, logits: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(model.decode(params, gumbel_softmax(key, logits, hard=True)))

    prior = model.prior_logits(params)
    index = gumbel_max(usage_key, model.encode(params, test.astype(jnp.float32) * scale).logits)
    return {
        "reconstructed": decoded(posterior_key, model.encode(params, x).logits),
        "sampled": decoded(prior_key, jnp.broadcast_to(prior, (8 * GRID, *prior.shape))),
        "counts": Usage.of(index, prior.shape[-1]).counts,
    }


def reconstructions(
    x: np.ndarray, reconstructed: np.ndarray, image_shape: tuple[int, int]
) -> Figure:
    """Test images, and below each the decoder's mean of one posterior sample."""
    rows = np.stack([x.reshape(4, GRID, -1), reconstructed.reshape(4, GRID, -1)], 1)
    return _picture(rows.reshape(8, GRID, -1), image_shape, "test images, reconstructions below")


def prior_samples(sampled: np.ndarray, image_shape: tuple[int, int]) -> Figure:
    """The decoder's mean for latents drawn from the prior."""
    return _picture(sampled.reshape(8, GRID, -1), image_shape, "samples from the prior")


def curves(records: list[dict[str, Any]]) -> Figure:
    """The bound of each split and the temperature over the steps."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for split in ("train", "validation", "test"):
        points = [record for record in records if record["split"] == split]
        if not points:
            continue
        above.plot(
            [point["step"] for point in points],
            [point["neg_elbo"] for point in points],
            marker="o" if split == "test" else "",
            label=split,
        )
    above.set_ylabel("negative ELBO (nats per image)")
    above.legend()
    above.grid(alpha=0.3)
    points = [record for record in records if record["split"] == "train"]
    below.plot([point["step"] for point in points], [point["temperature"] for point in points])
    below.set_ylabel("temperature")
    below.set_xlabel("optimizer step")
    below.grid(alpha=0.3)
    return figure


def code_usage(counts: np.ndarray) -> Figure:
    """How often the test images use each class of each latent; ``counts`` are ``[L, K]``."""
    frequency = counts / counts.sum(-1, keepdims=True)
    latents, classes = counts.shape
    figure = Figure(figsize=(1.5 + 0.45 * classes, 1.5 + 0.35 * latents), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(frequency, cmap="viridis", vmin=0)
    figure.colorbar(picture, label="share of test images")
    axes.set_xlabel("class")
    axes.set_ylabel("latent")
    return figure


def _picture(rows: np.ndarray, image_shape: tuple[int, int], title: str) -> Figure:
    """``[R, C, pixels]`` as one picture of R x C images."""
    height, width = image_shape
    images = rows.reshape(*rows.shape[:2], height, width)
    images = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=0.5)
    wall = images.transpose(0, 2, 1, 3).reshape(len(rows) * (height + 1), -1)
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(wall, cmap="gray", vmin=0, vmax=1)
    axes.set_axis_off()
    axes.set_title(title)
    return figure
