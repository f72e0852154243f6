"""The VAE of a config as an ordinary eager PyTorch loop: what the trainer's speed is compared with.

Prints one JSON object: {"steps_per_second": ...}. Needs torch and numpy, nothing of this library:
the model, the optimizer and the estimator are those of the config, given as arguments.
"""

import argparse
import json
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional


def mlp(widths: list[int], dropout: float) -> nn.Sequential:
    layers = []
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()] + [nn.Dropout(dropout)] * (dropout > 0)
    return nn.Sequential(*layers[: -2 - (dropout > 0)], layers[-2 - (dropout > 0)])


def main(options: argparse.Namespace) -> None:
    torch.manual_seed(0)
    images = torch.from_numpy(np.load(options.images)).float() * options.scale
    pixels, codes = images.shape[1], options.num_latents * options.num_classes
    encoder = mlp([pixels, *options.hidden, codes], options.dropout)
    decoder = mlp([codes, *reversed(options.hidden), pixels], options.dropout)
    prior = torch.zeros(options.num_latents, options.num_classes, requires_grad=True)
    params = [*encoder.parameters(), *decoder.parameters()]
    params += [prior] if options.learned_prior else []
    optimizer = torch.optim.AdamW(
        params, lr=options.learning_rate, weight_decay=options.weight_decay
    )
    average = [param.detach().clone() for param in params]

    def step(x: torch.Tensor, temperature: float) -> torch.Tensor:
        logits = encoder(x).view(-1, options.num_latents, options.num_classes)
        sample = functional.gumbel_softmax(logits, temperature, hard=True)
        reconstruction = functional.binary_cross_entropy_with_logits(
            decoder(sample.flatten(1)), x, reduction="sum"
        )
        log_q = functional.log_softmax(logits, -1)
        kl = (log_q.exp() * (log_q - functional.log_softmax(prior, -1))).sum()
        loss = (reconstruction + kl) / len(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if options.average:
            with torch.no_grad():
                torch._foreach_lerp_(average, params, 1 - options.average)
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
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--learned-prior", action="store_true")
    parser.add_argument("--average", type=float, default=0.0)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--weight-decay", type=float, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--warmup", type=int, default=50)
    main(parser.parse_args())
