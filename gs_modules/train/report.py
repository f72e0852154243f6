"""The page of a run, ``report.html``: how it went, what the model makes, and from which config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gs_modules.train.chart import Line, line_chart
from gs_modules.train.config import Config, to_yaml
from gs_modules.train.config_file import load
from gs_modules.train.folder import write_whole
from gs_modules.train.loop import Trainer
from gs_modules.train.page import beside, document, grid, key_figures, picture, section, table, text
from gs_modules.train.pictures import WALK, Pictures, pairs, take, walk_wall, wall
from gs_modules.train.run_directory import RunDirectory, parameters_sha256
from gs_modules.train.state import Best

Record = Mapping[str, Any]

COLOURS = {"train": 0, "validation": 1, "test": 2}
"""The splits, in the order of the legend."""


def write_report(directory: RunDirectory, trainer: Trainer, best: Best) -> None:
    """Writes the page of a run as it stands, at the parameters to keep."""
    sha256 = parameters_sha256(best.params)
    page = run_page(
        directory.path.resolve().name,
        load(directory.config, check_root=False),  # its folder of data, not that of an evaluation
        directory.records(),
        take(trainer, best.params),
        step=int(best.step),
        sha256=sha256,
        # Those of other parameters were made when the run had come less far.
        evaluations=[one for one in directory.evaluations() if one["parameters_sha256"] == sha256],
    )
    write_whole(directory.report, page.encode())


def run_page(
    name: str,
    config: Config,
    records: Sequence[Record],
    pictures: Pictures,
    *,
    step: int,
    sha256: str,
    evaluations: Sequence[Record] = (),
) -> str:
    """The page of a run as HTML.

    Args:
        name: of the run.
        config: the resolved config.
        records: the metrics so far.
        pictures: at the parameters to keep.
        step: of the parameters to keep.
        sha256: of the parameters to keep.
        evaluations: what ``gs-modules evaluate`` found at them, by split.
    """
    last = {record["split"]: record for record in records}  # of each split
    steps = config.training.steps
    reached = max((record["step"] for record in records), default=0)
    state = "finished" if "test" in last else f"unfinished, at step {reached:,} of {steps:,}"
    model = config.model
    subtitle = (
        f"Categorical VAE on {config.data.name}, {config.framework}: {model.num_latents} latents "
        f"of {model.num_classes} classes, estimator {config.estimator.kind}, temperature "
        f"{config.temperature.kind}; {state}."
    )
    return document(
        name,
        subtitle,
        [
            section("At a glance", key_figures(_key_figures(config, last, evaluations))),
            section("Over the steps", grid(_charts(config, records))),
            beside(*_images(pictures, step), _code_usage(pictures.counts)),
            section(
                "All figures",
                _splits(last),
                *([_evaluations(evaluations)] if evaluations else []),
                note="The last of each split, in nats per image; the KL divergence always has "
                "weight 1. Outside training, samples are discrete.",
            ),
            section(
                "Config",
                text(to_yaml(config)),
                note="The resolved config: gs-modules train takes it as it is.",
            ),
            section(
                "Parameters",
                text(f"step    {step}\nsha256  {sha256}"),
                note="Those that are kept and shown here: of the best validation bound, or the "
                "last ones where no images are kept for validation.",
            ),
        ],
    )


def _key_figures(
    config: Config, last: Mapping[str, Record], evaluations: Sequence[Record]
) -> dict[str, str]:
    measured = [split for split in ("test", "validation", "train") if split in last]
    if not measured:
        return {"measured so far": "nothing"}
    split, model = measured[0], config.model
    shown = last[split]
    return {
        f"negative ELBO, {split}, nats": f"{shown['neg_elbo']:.2f}",
        **{
            f"importance-weighted, {one['split']}, nats": f"{one['neg_importance_weighted']:.2f}"
            for one in evaluations
        },
        f"perplexity, of {model.num_classes}": f"{shown['perplexity']:.2f}",
        "codes used": f"{shown['codes_used']} of {model.num_latents * model.num_classes}",
        "temperature": f"{shown['temperature']:.3g}",
        "steps per second": f"{shown['steps_per_second']:,.0f}",
    }


def _charts(config: Config, records: Sequence[Record]) -> list[str]:
    def lines(key: str, splits: Sequence[str]) -> list[Line]:
        found = {
            split: [(record["step"], record[key]) for record in records if record["split"] == split]
            for split in splits
        }
        return [Line(split, COLOURS[split], points) for split, points in found.items() if points]

    classes, codes = config.model.num_classes, config.model.num_latents * config.model.num_classes
    splits = tuple(COLOURS)
    return [
        line_chart("negative ELBO (nats)", lines("neg_elbo", splits)),
        line_chart("reconstruction (nats)", lines("reconstruction", splits)),
        line_chart("KL divergence (nats)", lines("kl", splits)),
        line_chart("temperature", lines("temperature", ["train"])),
        line_chart(f"perplexity, of {classes}", lines("perplexity", splits), within=(1, classes)),
        line_chart(f"codes used, of {codes}", lines("codes_used", splits), within=(0, codes)),
    ]


def _images(pictures: Pictures, step: int) -> list[str]:
    shape = pictures.image_shape
    latents, classes = pictures.counts.shape
    most = f" The first {WALK} are shown." if max(latents, classes) > WALK else ""
    return [
        section(
            "Reconstructions",
            picture(
                pairs(pictures.originals, pictures.reconstructed, shape),
                "Rows of test images, each with its reconstructions below",
            ),
            note="Test images; below each, the decoder's mean for one sample of its code, with "
            f"the parameters of step {step:,}.",
        ),
        section(
            "Samples",
            picture(wall(pictures.sampled, shape), "Images decoded from samples of the prior"),
            note="The decoder's means for codes drawn from the prior.",
        ),
        section(
            "A walk through single latents",
            picture(
                walk_wall(pictures.walk, shape),
                f"{len(pictures.walk)} rows, one for each latent: an image, then the same with "
                "that latent set to each of its classes",
            ),
            note="First the likeliest code of one test image. Each row takes one latent through "
            f"its classes, all others fixed.{most}",
        ),
    ]


def _code_usage(counts: np.ndarray) -> str:
    share = counts / counts.sum(-1, keepdims=True)
    latents, classes = share.shape
    never = int((counts == 0).sum())
    return section(
        "Use of the codes",
        picture(
            share,
            f"Heat map of {latents} latents by {classes} classes; {never} classes are never drawn",
            colours="viridis",
            high=float(share.max()),
            width=min(32.0, 2.2 * classes),
        ),
        note="Each row is a latent, each column a class; the brighter, the more test images draw "
        f"it: from none to {share.max():.0%}.",
    )


def _splits(last: Mapping[str, Record]) -> str:
    rows = [
        (split, f"{last[split]['step']:,}", *_numbers(last[split]))
        for split in COLOURS
        if split in last
    ]
    return table(("split", "step", *_HEADINGS), rows)


def _evaluations(evaluations: Sequence[Record]) -> str:
    rows = [
        (
            f"{one['split']}, {one['samples']:,} samples an image",
            f"{one['neg_importance_weighted']:.2f}",
            *_numbers(one),
        )
        for one in evaluations
    ]
    return table(("evaluated", "importance-weighted", *_HEADINGS), rows)


_HEADINGS = ("negative ELBO", "reconstruction", "KL", "perplexity", "codes used")


def _numbers(record: Record) -> list[str]:
    nats = [f"{record[key]:.2f}" for key in ("neg_elbo", "reconstruction", "kl")]
    return [*nats, f"{record['perplexity']:.2f}", f"{record['codes_used']}"]
