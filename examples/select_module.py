"""Flax Linen: a gate chooses one of three modules for each image, and learns which it needs.

The modules make two numbers of what they see: the upper half of a digit, the lower half, or the
means of its rows and columns. The classifier sees the two numbers of the chosen module alone.
``where`` gives the gate fewer candidates: one for all, to measure each module by itself, or a
random one for each image, to measure chance.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from gs_modules import Exponential
from gs_modules.linen import GumbelGate

# What is set in this file was chosen on the last 300 of the training images.
SCHEDULE = Exponential(1.0, 0.3, rate=1e-3)
MODULES = ("upper half", "lower half", "means")

images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(images))
x, y = jnp.asarray(images[order] / 16, jnp.float32), jnp.asarray(labels[order])
x_train, y_train, x_test, y_test = x[:1437], y[:1437], x[1437:], y[1437:]


class Classifier(nn.Module):
    @nn.compact
    def __call__(self, x, where=None, deterministic: bool = False):
        image = x.reshape(-1, 8, 8)
        means = jnp.concatenate([image.mean(1), image.mean(2)], -1)
        views = (x[:, :32], x[:, 32:], means)
        embeddings = [nn.Dense(2)(view) for view in views]
        gate = GumbelGate(len(MODULES), temperature=SCHEDULE)
        choice = gate(x, where=where, deterministic=deterministic)
        hidden = nn.relu(nn.Dense(64)(choice.combine(embeddings)))
        return nn.Dense(10)(hidden), choice


model, optimizer = Classifier(), optax.adamw(3e-3, weight_decay=1e-2)


@jax.jit
def train_step(variables, opt_state, x, y, where, key):
    def loss(params):
        given, rngs = {**variables, "params": params}, {"gumbel": key}
        (logits, choice), state = model.apply(given, x, where, rngs=rngs, mutable=["anneal"])
        value = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        return value + choice.load_balance_loss(), (value, state)

    gradients, (value, state) = jax.grad(loss, has_aux=True)(variables["params"])
    updates, opt_state = optimizer.update(gradients, opt_state, variables["params"])
    return {**state, "params": optax.apply_updates(variables["params"], updates)}, opt_state, value


@jax.jit
def evaluate(variables, where):
    """Accuracy with the most probable module of each test image, and which one that is."""
    logits, choice = model.apply({"params": variables["params"]}, x_test, where, deterministic=True)
    return (logits.argmax(-1) == y_test).mean(), choice.index[:, 0]


def train(steps, candidates):
    """Trains on the modules that ``candidates(key, n)`` ``[n, 3]`` allows for n images.

    Returns:
        Rows of step, loss, temperature and test accuracy, and the module of each test image.
    """
    rngs = {"params": jax.random.key(0), "gumbel": jax.random.key(1)}
    variables = model.init(rngs, x_train[:1])
    opt_state = optimizer.init(variables["params"])
    for_test, curve = candidates(jax.random.key(2), len(x_test)), []
    for step in range(1, steps + 1):
        row_key, where_key, key = jax.random.split(jax.random.key(step), 3)
        rows = jax.random.randint(row_key, (128,), 0, len(x_train))
        batch = x_train[rows], y_train[rows], candidates(where_key, 128)
        variables, opt_state, loss = train_step(variables, opt_state, *batch, key)
        if step % 100 == 0 or step == steps:
            ticks = variables["anneal"]["GumbelGate_0"]["step"]  # the gate's own clock
            accuracy, chosen = evaluate(variables, for_test)
            curve.append([int(ticks), float(loss), float(SCHEDULE(ticks)), float(accuracy)])
    return curve, np.asarray(chosen)


def draw(path, curves, usage):
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    accuracy, heat = figure.subplots(1, 2, width_ratios=(4, 3))
    for name, curve in curves.items():
        steps, _, _, accuracies = zip(*curve, strict=True)
        accuracy.plot(steps, accuracies, label=name)
    accuracy.set(xlabel="step", ylabel="test accuracy")
    accuracy.legend()
    drawn = heat.imshow(usage.T, cmap="Greens", vmin=0, vmax=1)
    heat.set(xlabel="digit", title="module chosen", xticks=range(10))
    heat.set_yticks(range(len(MODULES)), MODULES)
    figure.colorbar(drawn, ax=heat, label="share of the test images", orientation="horizontal")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main(steps: int, figure: Path):
    def only(module):
        return lambda key, n: jnp.tile(jnp.arange(3) == module, (n, 1))

    candidates = {
        "gate": lambda key, n: jnp.ones((n, 3), bool),
        **{f"{name} alone": only(number) for number, name in enumerate(MODULES)},
        "random": lambda key, n: jax.nn.one_hot(jax.random.randint(key, (n,), 0, 3), 3, dtype=bool),
    }
    runs = {name: train(steps, where) for name, where in candidates.items()}
    curve, chosen = runs["gate"]
    for step, loss, temperature, _ in (curve[0], curve[-1]):
        print(f"step {step:4d}  loss {loss:.3f}  temperature {temperature:.3f}")
    for name, (curve, _) in runs.items():
        print(f"accuracy, {name}: {curve[-1][-1]:.3f}")
    digits = np.asarray(y_test)
    usage = np.stack([np.eye(3)[chosen[digits == digit]].mean(0) for digit in range(10)])
    shares = (
        f"{name} {share:.3f}"
        for name, share in zip(MODULES, np.eye(3)[chosen].mean(0), strict=True)
    )
    print("chosen by the gate:", ", ".join(shares))
    draw(figure, {name: curve for name, (curve, _) in runs.items()}, usage)
    print(f"figure: {figure}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--figure", type=Path, default=Path("runs/select_module.png"))
    main(**vars(parser.parse_args()))
