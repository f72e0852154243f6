"""The pictures of a run as files: reconstructions, samples, curves and the use of codes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gs_modules.train.folder import write_whole
from gs_modules.train.pictures import Pictures, pairs, wall


def write_figures(folder: Path, pictures: Pictures, records: list[dict[str, Any]]) -> None:
    """Draws the four figures of a run into ``folder``."""
    shape = pictures.image_shape
    reconstructions = pairs(pictures.originals, pictures.reconstructed, shape)
    save(
        folder,
        {
            "reconstructions.png": of_images(reconstructions, "test images, reconstructions below"),
            "samples.png": of_images(wall(pictures.sampled, shape), "samples from the prior"),
            "curves.png": curves(records),
            "code_usage.png": code_usage(pictures.counts),
        },
    )


def save(folder: Path, figures: dict[str, Figure]) -> None:
    """Writes figures as PNG files, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        picture = io.BytesIO()
        figure.savefig(picture, dpi=120)
        write_whole(folder / name, picture.getvalue())


def of_images(pixels: np.ndarray, title: str) -> Figure:
    """A wall of images ``[height, width]`` under a title."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1)
    axes.set_axis_off()
    axes.set_title(title)
    return figure


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
    """How often images use each class of each latent; ``counts`` are ``[L, K]``."""
    frequency = counts / counts.sum(-1, keepdims=True)
    latents, classes = counts.shape
    figure = Figure(figsize=(1.5 + 0.45 * classes, 1.5 + 0.35 * latents), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(frequency, cmap="viridis", vmin=0)
    figure.colorbar(picture, label="share of images")
    axes.set_xlabel("class")
    axes.set_ylabel("latent")
    return figure
