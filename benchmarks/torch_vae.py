"""The VAE of a config as an ordinary eager PyTorch loop: what the trainer's speed is compared with.

Prints one JSON object: {"steps_per_second": ...}. Needs torch and numpy, nothing of this library:
model and optimizer are those of the config, given as arguments; the estimator is straight-through
Gumbel, and the temperature falls exponentially, at a rate that makes no difference to the time.
"""

import argparse
import itertools
import json
import math
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional


def mlp(widths: list[int]) -> nn.Sequential:
    layers = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def main(options: argparse.Namespace) -> None:
    torch.manual_seed(0)
    images = torch.from_numpy(np.load(options.images)).float() * options.scale
    pixels, codes = images.shape[1], options.num_latents * options.num_classes
    encoder = mlp([pixels, *options.hidden, codes])
    decoder = mlp([codes, *reversed(options.hidden), pixels])
    optimizer = torch.optim.AdamW(
        [*encoder.parameters(), *decoder.parameters()],
        lr=options.learning_rate,
        weight_decay=options.weight_decay,
    )

    def step(x: torch.Tensor, temperature: float) -> torch.Tensor:
        seen = x
        if options.flip_probability:
            flips = torch.rand_like(x) < options.flip_probability
            seen = torch.where(flips, 1 - x, x)
        logits = encoder(seen).view(-1, options.num_latents, options.num_classes)
        sample = functional.gumbel_softmax(logits, temperature, hard=True)
        reconstruction = functional.binary_cross_entropy_with_logits(
            decoder(sample.flatten(1)), x, reduction="sum"
        )
        log_q = functional.log_softmax(logits, -1)
        kl = (log_q.exp() * (log_q + math.log(options.num_classes))).sum()
        loss = (reconstruction + kl) / len(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    order = torch.randperm(len(images))
    began = 0.0
    for number in range(-options.warmup, options.steps):
        if number == 0:
            began = time.perf_counter()
        start = number * options.batch_size % (len(images) - options.batch_size)
        temperature = max(0.5, float(np.exp(-1e-4 * max(number, 0))))
        step(images[order[start : start + options.batch_size]], temperature).item()
    seconds = time.perf_counter() - began
    print(json.dumps({"steps_per_second": options.steps / seconds}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", required=True, help="an .npy file, uint8 [N, pixels]")
    parser.add_argument("--scale", type=float, required=True)
    parser.add_argument("--hidden", type=int, nargs="+", required=True)
    parser.add_argument("--num-latents", type=int, required=True)
    parser.add_argument("--num-classes", type=int, required=True)
    parser.add_argument("--flip-probability", type=float, default=0.0)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--weight-decay", type=float, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--warmup", type=int, default=50)
    main(parser.parse_args())
