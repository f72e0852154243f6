"""The training loop: compiled chunks of steps, driven by one integer, the optimizer step.

Temperature, noise and the order of the data are functions of the seed and the step alone, so a run
that stopped continues as if it never had.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from gs_modules.train.bound import Totals, evaluate
from gs_modules.train.config import Config
from gs_modules.train.data import Dataset
from gs_modules.train.models import Model, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What every optimizer step changes.

    Attributes:
        step: int32, optimizer updates so far: the clock of everything.
        params: the trained parameters.
        optimizer: the optimizer's state.
    """

    step: jax.Array
    params: Params
    optimizer: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Best:
    """The parameters to keep: of the best validation bound, or the last without validation.

    Attributes:
        step: when they were evaluated.
        bound: their validation bound in nats; infinite without validation.
        params: the parameters.
    """

    step: jax.Array
    bound: jax.Array
    params: Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Everything a run needs to go on: what a checkpoint holds."""

    state: TrainState
    best: Best


class NonFiniteLossError(Exception):
    """The loss became NaN or infinite."""


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """The compiled functions of one run.

    Attributes:
        config: the whole config.
        data: the images.
        model: pure functions of the VAE.
    """

    config: Config
    data: Dataset
    model: Model

    def key(self, purpose: str) -> jax.Array:
        """The root key of one purpose: init, train, validation, test, figures or compare."""
        purposes = ("init", "train", "validation", "test", "figures", "compare")
        return jax.random.fold_in(jax.random.key(self.config.seed), purposes.index(purpose))

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        options = self.config.optimizer
        rate = options.learning_rate
        if options.decay == "cosine":
            rate = optax.cosine_decay_schedule(rate, self.config.training.steps)
        return optax.adamw(rate, weight_decay=options.weight_decay)

    @functools.cached_property
    def temperature(self) -> Callable[[int], jax.Array]:
        """The compiled schedule."""
        return jax.jit(self.config.temperature.build())

    def init(self) -> Snapshot:
        """The beginning of a run."""
        return jax.jit(self._init)()

    def _init(self) -> Snapshot:
        params = self.model.init(self.key("init"))
        state = TrainState(jnp.int32(0), params, self.optimizer.init(params))
        return Snapshot(state, Best(jnp.int32(0), jnp.float32(jnp.inf), params))

    def update(
        self, state: TrainState, x: jax.Array, seen: jax.Array, key: jax.Array
    ) -> tuple[TrainState, Totals]:
        """One optimizer step on a batch ``[B, pixels]``, which the encoder sees as ``seen``."""

        def loss(params: Params) -> tuple[jax.Array, Totals]:
            pixel_logits, latent = self.model.forward(params, seen, key, state.step)
            totals = Totals.of(pixel_logits, x, latent)
            return (totals.reconstruction + totals.kl) / x.shape[0], totals

        gradient, totals = jax.grad(loss, has_aux=True)(state.params)
        updates, optimizer = self.optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, optimizer), totals

    def compile(self) -> None:
        """Compiles all that a chunk needs now, not at the first one."""
        _ = self.compiled_chunk
        self.temperature(0)
        _ = self._no_totals.usage.perplexity

    @functools.cached_property
    def compiled_chunk(self) -> Callable[..., tuple[TrainState, Totals]]:
        """``(state, images, batches, length) -> (state, totals)``: the only compiled update.

        ``batches`` ``[chunk_steps, B]`` are row numbers; ``length`` of them are used, so that
        the last, shorter chunk of a run needs no second compilation.
        """

        def chunk(state, images, batches, length):
            # The keys of all steps at once: on CPU, each call of the generator is a loop itself.
            steps = state.step + jnp.arange(len(batches), dtype=jnp.int32)
            keys = jax.vmap(functools.partial(jax.random.fold_in, key))(steps)
            flip_keys, model_keys = jax.vmap(jax.random.split, out_axes=1)(keys)

            def body(number, carry):
                state, totals = carry
                x = seen = images[batches[number]].astype(jnp.float32) * self.data.scale
                if probability:
                    flips = jax.random.bernoulli(flip_keys[number], probability, x.shape)
                    seen = jnp.where(flips, 1 - x, x)
                state, added = self.update(state, x, seen, model_keys[number])
                return state, totals + added

            return lax.fori_loop(0, length, body, (state, self._no_totals))

        key = self.key("train")
        probability = self.config.training.flip_probability
        jitted = jax.jit(chunk, donate_argnums=0)
        state = jax.eval_shape(self._init).state
        shape = (self.chunk_steps, self.config.training.batch_size)
        batches = jax.ShapeDtypeStruct(shape, jnp.int32)
        return jitted.lower(state, self.images, batches, jnp.int32(0)).compile()

    @property
    def _no_totals(self) -> Totals:
        return Totals.zero(self.config.model.num_latents, self.config.model.num_classes)

    @functools.cached_property
    def images(self) -> jax.Array:
        return jnp.asarray(self.data.train)

    @property
    def chunk_steps(self) -> int:
        """Steps of the longest chunk: a run may end before its first evaluation is due."""
        return min(self.config.training.evaluate_every, self.config.training.steps)

    def batches(self, start: int, stop: int) -> np.ndarray:
        """Row numbers ``[chunk_steps, B]`` of the steps ``start .. stop - 1``, then zeros.

        Every epoch is a permutation drawn from the seed and the number of the epoch; what is left
        of it after the last whole batch is dropped.
        """
        size = self.config.training.batch_size
        per_epoch = len(self.data.train) // size
        rows = np.zeros((self.chunk_steps, size), np.int32)
        for epoch in range(start // per_epoch, (stop - 1) // per_epoch + 1):
            order = np.random.default_rng([self.config.seed, epoch]).permutation(
                len(self.data.train)
            )
            steps = np.arange(max(start, epoch * per_epoch), min(stop, (epoch + 1) * per_epoch))
            whole_batches = order[: per_epoch * size].reshape(per_epoch, size)
            rows[steps - start] = whole_batches[steps % per_epoch]
        return rows

    def evaluate(self, params: Params, split: Literal["validation", "test"], step: int) -> Totals:
        """The bound on one part of the data, with noise of its own for every step."""
        key = jax.random.fold_in(self.key(split), step)
        samples = self.config.training.evaluation_samples
        images = getattr(self.data, split)
        return evaluate(self.model, params, images, self.data.scale, key, samples)

    def run(self, snapshot: Snapshot) -> Iterator[tuple[Snapshot, list[dict[str, Any]]]]:
        """The rest of the run: after every chunk a new snapshot and what was measured there.

        Raises:
            NonFiniteLossError: before a damaged state is handed out.
        """
        state, best = snapshot.state, snapshot.best
        every, last = self.config.training.evaluate_every, self.config.training.steps
        while (start := int(state.step)) < last:
            stop = min(start - start % every + every, last)
            began = time.perf_counter()
            state, totals = self.compiled_chunk(
                state, self.images, self.batches(start, stop), jnp.int32(stop - start)
            )
            measured = totals.metrics()
            if not math.isfinite(measured["neg_elbo"]):
                raise NonFiniteLossError(
                    f"the loss became {measured['neg_elbo']} between steps {start} and {stop}"
                )
            common = {
                "temperature": float(self.temperature(stop)),
                "steps_per_second": round((stop - start) / (time.perf_counter() - began), 1),
            }
            records = [{"step": stop, "split": "train", **measured, **common}]
            bound = math.inf
            if len(self.data.validation):
                measured = self.evaluate(state.params, "validation", stop).metrics()
                records.append({"step": stop, "split": "validation", **measured, **common})
                bound = measured["neg_elbo"]
            if bound < float(best.bound) or not len(self.data.validation):
                kept = jax.tree.map(jnp.copy, state.params)
                best = Best(jnp.int32(stop), jnp.float32(bound), kept)
            yield Snapshot(state, best), records

    def test(self, best: Best) -> dict[str, Any]:
        """The record of the test images, at the parameters to keep."""
        step = int(best.step)
        return {
            "step": step,
            "split": "test",
            **self.evaluate(best.params, "test", step).metrics(),
            "temperature": float(self.temperature(step)),
        }
