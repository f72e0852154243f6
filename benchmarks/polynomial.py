"""Polynomial programming (Liu et al. 2023, https://arxiv.org/abs/2304.08612) with every estimator.

    python benchmarks/polynomial.py

Minimises, over the logits of 128 binary latents, the expected mean over the latents of
``|x - 0.45|**p``, where x is 1 when the first of two classes is drawn; the optimum is ``0.45**p``.
The protocol is that of the authors' code (`poly` of https://github.com/LiyuanLucasLiu/ReinMax):
logits start uniform in -0.01 .. 0.01, temperature 1, 64 samples an update, Adam with learning rate
1e-3, 40 epochs of 200 updates. Two losses are reported, both means over the updates of the last
epoch: `sampled_loss`, of the samples, is what the authors report; `expected_loss`, of the
probabilities, is exact. The three powers of a seed share their random numbers.

At temperature 1 `decoupled` with backward temperature 1 is `straight_through_gumbel`, and left out.
`pathwise` samples are relaxed and their loss is another: compare its expected loss only.
`argmax` draws nothing: its sampled loss is that of the most probable classes.
Writes `benchmarks/results/polynomial.json`; its seconds are wall time, compilation included.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from recording import record

import gs_modules as gs

TARGET = 0.45
POWERS = (1.5, 2.0, 3.0)
PUBLISHED = {
    "reinmax": (0.3054, 0.2038, 0.0916),
    "straight_through_gumbel": (0.3514, 0.2459, 0.1189),
}
"""By the authors' implementation with one seed."""


def losses(
    estimator: gs.Estimator,
    key: jax.Array,
    power: jax.Array,
    *,
    latents: int = 128,
    batch: int = 64,
    epochs: int = 40,
    updates: int = 200,
) -> tuple[jax.Array, jax.Array]:
    """The sampled and the expected loss of each epoch, mean over its updates: ``[epochs]`` both."""
    optimizer = optax.adam(1e-3)
    of_logits, of_samples = jax.random.split(key)
    # Classes before latents: twice as fast on CPU as two classes on the last axis.
    logits = jax.random.uniform(of_logits, (2, latents), minval=-0.01, maxval=0.01)
    loss_of_class = jnp.abs(jnp.array([[1.0], [0.0]]) - TARGET) ** power

    def sampled_loss(logits, key):
        sample = estimator(key, jnp.broadcast_to(logits, (batch, 2, latents)), 1.0, axis=1)
        return jnp.mean(jnp.abs(sample[:, 0] - TARGET) ** power)

    def update(carry, step):
        logits, state = carry
        key = jax.random.fold_in(of_samples, step)
        sampled, gradient = jax.value_and_grad(sampled_loss)(logits, key)
        expected = jnp.mean(jnp.sum(jax.nn.softmax(logits, 0) * loss_of_class, 0))
        changes, state = optimizer.update(gradient, state)
        return (optax.apply_updates(logits, changes), state), (sampled, expected)

    carry = logits, optimizer.init(logits)
    _, of_updates = jax.lax.scan(update, carry, jnp.arange(epochs * updates))
    sampled, expected = (loss.reshape(epochs, updates).mean(1) for loss in of_updates)
    return sampled, expected


def run(name: str, seeds: list[int]) -> list[dict]:
    began = time.perf_counter()
    over_powers = jax.vmap(functools.partial(losses, gs.ESTIMATORS[name]()), (None, 0))
    over_seeds = jax.jit(jax.vmap(over_powers, (0, None)))
    keys = jax.vmap(jax.random.key)(jnp.array(seeds))
    sampled, expected = (np.asarray(x)[..., -1] for x in over_seeds(keys, jnp.array(POWERS)))
    seconds = round(time.perf_counter() - began, 1)
    return [
        {
            "estimator": name,
            "p": power,
            "optimum": round(TARGET**power, 5),
            "published": PUBLISHED[name][i] if name in PUBLISHED else None,
            "sampled_loss": over_seeds_of(sampled[:, i]),
            "expected_loss": over_seeds_of(expected[:, i]),
            "seconds_of_all_p": seconds,
        }
        for i, power in enumerate(POWERS)
    ]


def over_seeds_of(values: np.ndarray) -> dict:
    return {
        "mean": round(float(values.mean()), 5),
        "standard_deviation": round(float(values.std(ddof=1)), 6),
        "seeds": [round(float(value), 5) for value in values],
    }


def table(results: list[dict], kind: str) -> str:
    """Rows are estimators, columns powers: mean and standard deviation over seeds."""
    lines = [f"{kind:<24}" + "".join(f"{f'p = {power:g}':>20}" for power in POWERS)]
    for i in range(0, len(results), len(POWERS)):
        of_name = [result[kind] for result in results[i : i + len(POWERS)]]
        cells = [f"{x['mean']:.5f} +- {x['standard_deviation']:.5f}" for x in of_name]
        lines.append(f"{results[i]['estimator']:<24}" + "".join(f"{cell:>20}" for cell in cells))
    lines.append(f"{'optimum':<24}" + "".join(f"{TARGET**power:>20.5f}" for power in POWERS))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    results = []
    for name in gs.ESTIMATORS:
        if name != "decoupled":
            results += run(name, options.seeds)
            print(name, results[-1]["seconds_of_all_p"], "s", flush=True)
    command = "python benchmarks/polynomial.py --seeds " + " ".join(map(str, options.seeds))
    record("polynomial", command, jax=jax.__version__, results=results)
    print(table(results, "sampled_loss"), table(results, "expected_loss"), sep="\n\n")


if __name__ == "__main__":
    main()
