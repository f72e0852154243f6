"""Pictures of a run: reconstructions, samples, curves and the use of codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from gs_modules import gumbel_max, gumbel_softmax
from gs_modules.train.data import Dataset
from gs_modules.train.models import Model, Params

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
    figures = {
        "reconstructions.png": reconstructions(model, params, data, key),
        "samples.png": prior_samples(model, params, data, key),
        "curves.png": curves(records),
        "code_usage.png": code_usage(model, params, data, key),
    }
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=120)
    return [folder / name for name in figures]


def reconstructions(model: Model, params: Params, data: Dataset, key: jax.Array) -> Figure:
    """Test images, and below each the decoder's mean of one posterior sample."""
    x = data.test[: 4 * GRID].astype(np.float32) * data.scale
    logits = model.encode(params, jnp.asarray(x)).logits
    decoded = jax.nn.sigmoid(model.decode(params, gumbel_softmax(key, logits, hard=True)))
    rows = np.stack([x.reshape(4, GRID, -1), np.asarray(decoded).reshape(4, GRID, -1)], 1)
    return _picture(rows.reshape(8, GRID, -1), data, "test images, reconstructions below")


def prior_samples(model: Model, params: Params, data: Dataset, key: jax.Array) -> Figure:
    """The decoder's mean for latents drawn from the prior."""
    logits = model.prior_logits(params)
    logits = jnp.broadcast_to(logits, (8 * GRID, *logits.shape))
    decoded = jax.nn.sigmoid(model.decode(params, gumbel_softmax(key, logits, hard=True)))
    return _picture(np.asarray(decoded).reshape(8, GRID, -1), data, "samples from the prior")


def curves(records: list[dict[str, Any]]) -> Figure:
    """The bound of each split and the temperature over the steps."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for split in ("train", "validation", "test"):
        points = [record for record in records if record["split"] == split]
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


def code_usage(model: Model, params: Params, data: Dataset, key: jax.Array) -> Figure:
    """How often the test images use each class of each latent."""
    logits = model.encode(params, jnp.asarray(data.test, jnp.float32) * data.scale).logits
    index = np.asarray(gumbel_max(key, logits))
    latents, classes = logits.shape[-2:]
    frequency = np.stack([np.bincount(column, minlength=classes) for column in index.T]) / len(
        index
    )
    figure = Figure(figsize=(1.5 + 0.45 * classes, 1.5 + 0.35 * latents), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(frequency, cmap="viridis", vmin=0)
    figure.colorbar(picture, label="share of test images")
    axes.set_xlabel("class")
    axes.set_ylabel("latent")
    return figure


def _picture(rows: np.ndarray, data: Dataset, title: str) -> Figure:
    """``[R, C, pixels]`` as one picture of R x C images."""
    height, width = data.image_shape
    images = rows.reshape(*rows.shape[:2], height, width)
    images = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=0.5)
    wall = images.transpose(0, 2, 1, 3).reshape(len(rows) * (height + 1), -1)
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(wall, cmap="gray", vmin=0, vmax=1)
    axes.set_axis_off()
    axes.set_title(title)
    return figure
