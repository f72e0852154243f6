"""Flax NNX: a gate finds the informative pixels of digits, beside mutual information and chance.

``GumbelGate(64, k)`` without an input learns which k of the 64 pixels a classifier should see, and
the two train together. Mutual information ranks every pixel by itself, whatever others already say.
All choose on training images; a support vector machine, trained on the same images and shown the
chosen pixels alone, judges them on test images, in five splits of the data.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.feature_selection import mutual_info_classif
from sklearn.svm import SVC

from gs_modules import Cosine
from gs_modules.nnx import GumbelGate

images, labels = load_digits(return_X_y=True)
images = images.astype(int)  # 0 to 16
x, y = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)

# What is set in this file was chosen by cross-validation on the training images of split 0.
order = np.random.default_rng(0).permutation(len(images))
rolled = np.stack([np.roll(order, 360 * split) for split in range(5)])
TRAIN, TEST = rolled[:, :1437], rolled[:, 1437:]


class Selector(nnx.Module):
    def __init__(self, k: int, steps: int, *, rngs: nnx.Rngs):
        self.gate = GumbelGate(64, k, temperature=Cosine(1.0, 0.5, steps), rngs=rngs)
        self.hidden = nnx.Linear(64, 64, rngs=rngs)
        self.classifier = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        return self.classifier(nnx.relu(self.hidden(x * self.gate().weights)))


def train_gate(key, train, k, steps):
    """The k pixels that a gate chooses on the images ``train``; a pure function of the key."""
    model_key, steps_key = jax.random.split(key)
    model = Selector(k, steps, rngs=nnx.Rngs(model_key))
    adam = optax.adam(optax.cosine_decay_schedule(0.02, steps))
    optimizer = nnx.Optimizer(model, adam, wrt=nnx.Param)

    @nnx.scan
    def step(state, key):
        model, optimizer = state
        row_key, noise_key = jax.random.split(key)
        rows = jax.random.choice(row_key, train, (128,))
        noisy = x[rows] + 0.6 * jax.random.normal(noise_key, (128, 64))  # against overfitting

        def loss(model):
            return optax.softmax_cross_entropy_with_integer_labels(model(noisy), y[rows]).mean()

        value, gradient = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradient)
        return (model, optimizer), value

    step((model, optimizer), jax.random.split(steps_key, steps))
    return model.gate(deterministic=True).index


def by_gate(k, seeds, steps):
    """All splits and seeds at once: the models live inside of ``jax.vmap``."""
    keys = jax.random.split(jax.random.key(0), (len(TRAIN), seeds))
    of_split = jax.vmap(lambda key, train: train_gate(key, train, k, steps), (0, None))
    return jax.jit(jax.vmap(of_split))(keys, TRAIN)


def by_mutual_information(k, seeds, steps):
    information = (
        mutual_info_classif(images[train], labels[train], discrete_features=True) for train in TRAIN
    )
    return [[np.argsort(-per_pixel)[:k]] for per_pixel in information]


def by_chance(k, seeds, steps):
    random = np.random.default_rng(0)
    return [[random.permutation(64)[:k] for _ in range(2 * seeds)] for _ in TRAIN]


def accuracy(split, pixels):
    train, test = TRAIN[split], TEST[split]
    classifier = SVC().fit(images[train][:, pixels], labels[train])
    return classifier.score(images[test][:, pixels], labels[test])


def draw(path, counts, chosen, scores, all_pixels):
    """Accuracies; beside them, how often each pixel is chosen, for the middle one of ``counts``."""
    middle = len(counts) // 2
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.subplot_mosaic("agm", width_ratios=(2, 1, 1))
    for method, means in scores.items():
        axes["a"].plot(counts, means, marker="o", label=method)
    axes["a"].axhline(all_pixels, color="gray", linestyle=":", label="all 64 pixels")
    axes["a"].set(xlabel="pixels kept", ylabel="test accuracy")
    axes["a"].legend()
    for name, method in (("g", "gate"), ("m", "mutual information")):
        pixels = np.asarray(chosen[method][middle])
        share = np.bincount(pixels.ravel(), minlength=64) / (pixels.size / counts[middle])
        axes[name].imshow(share.reshape(8, 8), cmap="Greens", vmin=0, vmax=1)
        axes[name].set(title=f"{counts[middle]} pixels:\n{method}", xticks=[], yticks=[])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main(pixels: list[int], steps: int, seeds: int, figure: Path):
    methods = {"gate": by_gate, "mutual information": by_mutual_information, "chance": by_chance}
    chosen, scores = {name: [] for name in methods}, {name: [] for name in methods}
    print(f"pixels  {'  '.join(methods)}")
    for k in pixels:
        for name, method in methods.items():
            chosen[name].append(method(k, seeds, steps))
            scores[name].append(
                np.mean([[accuracy(n, p) for p in of] for n, of in enumerate(chosen[name][-1])])
            )
        means = (f"{scores[name][-1]:{len(name)}.4f}" for name in methods)
        print(f"{k:6d}  {'  '.join(means)}", flush=True)
    all_pixels = np.mean([accuracy(split, np.arange(64)) for split in range(len(TRAIN))])
    print(f"    64  {all_pixels:.4f}")
    draw(figure, pixels, chosen, scores, all_pixels)
    print(f"figure: {figure}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pixels", type=int, nargs="+", default=[5, 10, 20, 30, 40])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--figure", type=Path, default=Path("runs/feature_selection.png"))
    main(**vars(parser.parse_args()))
