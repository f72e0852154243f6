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
from typing import Any, Literal, Self, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from gs_modules import gumbel_sigmoid
from gs_modules.train import models
from gs_modules.train.bound import Totals, evaluate
from gs_modules.train.config import Config
from gs_modules.train.data import Dataset
from gs_modules.train.devices import Devices
from gs_modules.train.epochs import batches_of
from gs_modules.train.models import Model, Params
from gs_modules.train.pace import LONGEST_CHUNK, Pace
from gs_modules.train.processes import agreed
from gs_modules.train.state import Best, LastUpdate, Snapshot, TrainState

Purpose = Literal["init", "train", "validation", "test", "figures", "compare", "importance"]
"""What random numbers are for; the place in this list makes the key."""


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

    @classmethod
    def of(cls, config: Config, data: Dataset) -> Self:
        """With the model that the config describes.

        Raises:
            ImpossibleValueError: ``config.mesh`` asks for more devices than there are.
        """
        return cls(config, data, models.build(config, data.train.shape[1]))

    def key(self, purpose: Purpose) -> jax.Array:
        """The root key of one purpose."""
        number = get_args(Purpose).index(purpose)
        # Named, so that a run does not depend on the default of the process that continues it.
        key = jax.random.key(self.config.seed, impl="threefry2x32")
        return jax.random.fold_in(key, number)

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
        return jax.jit(self._init, out_shardings=self.devices.replicated)()

    def _init(self) -> Snapshot:
        params = self.model.init(self.key("init"))
        state = TrainState(jnp.int32(0), params, self.optimizer.init(params))
        best = Best(jnp.int32(0), jnp.float32(jnp.inf), params)
        return Snapshot(state, self._no_totals, best)

    def gradient(
        self, params: Params, step: jax.Array, x: jax.Array, seen: jax.Array, key: jax.Array
    ) -> tuple[Params, Totals]:
        """Of the mean loss of a batch ``[B, pixels]``, which the encoder sees as ``seen``."""
        options = self.config.training

        def loss(params: Params, x: jax.Array, seen: jax.Array, key: jax.Array):
            pixel_logits, latent = self.model.forward(params, seen, key, step)
            totals = Totals.of(pixel_logits, x, latent)
            return (totals.reconstruction + totals.kl) / options.batch_size, totals

        gradient_of = jax.grad(loss, has_aux=True)
        if options.microbatches == 1:
            return gradient_of(params, *map(self.devices.over_data, (x, seen)), key)

        def add(sums: tuple, part: tuple) -> tuple[tuple, None]:
            number, x, seen = part
            gradient, totals = sums
            more, added = gradient_of(
                params,
                self.devices.over_data(x),
                self.devices.over_data(seen),
                jax.random.fold_in(key, number),
            )
            return (jax.tree.map(jnp.add, gradient, more), totals + added), None

        def parts(batch: jax.Array) -> jax.Array:
            return batch.reshape(options.microbatches, -1, batch.shape[-1])

        zero = (jax.tree.map(jnp.zeros_like, params), self._no_totals)
        numbers = jnp.arange(options.microbatches)
        return lax.scan(add, zero, (numbers, parts(x), parts(seen)))[0]

    def compile(self) -> None:
        """Compiles all that a chunk needs now, not at the first one."""
        _ = self.compiled_chunk
        self.temperature(0)
        _ = self._no_totals.usage.perplexity

    @functools.cached_property
    def compiled_chunk(self) -> Callable[..., tuple[TrainState, Totals, LastUpdate]]:
        """``(state, totals, images, batches, first, stop) -> (state, totals, last)``.

        The only compiled update. ``batches`` ``[chunk_steps, B]`` are the row numbers of the steps
        from ``first`` on; the loop runs from ``state.step`` to ``stop``, or to a loss that is not
        finite. So a chunk of any length needs no second compilation.
        """
        options = self.config.training
        key = self.key("train")
        odds = options.flip_probability / (1 - options.flip_probability)
        flip_logit = math.log(odds) if odds else -math.inf

        def chunk(state, totals, images, batches, first, stop):
            # The keys of all steps at once: on CPU, each call of the generator is a loop itself.
            steps = first + jnp.arange(len(batches), dtype=jnp.int32)
            keys = jax.vmap(functools.partial(jax.random.fold_in, key))(steps)
            flip_keys, model_keys = jax.vmap(jax.random.split, out_axes=1)(keys)

            def goes_on(carry):
                state, _, last = carry
                return (state.step < stop) & jnp.isfinite(last.loss)

            def update(carry):
                state, totals, _ = carry
                number = state.step - first
                x = seen = images[batches[number]].astype(jnp.float32) * self.data.scale
                if options.flip_probability:
                    flips = gumbel_sigmoid(
                        flip_keys[number], jnp.full(x.shape, flip_logit, jnp.float32), hard=True
                    )
                    seen = jnp.abs(flips - x)
                gradient, added = self.gradient(
                    state.params, state.step, x, seen, model_keys[number]
                )
                updates, optimizer = self.optimizer.update(gradient, state.optimizer, state.params)
                params = optax.apply_updates(state.params, updates)
                loss = (added.reconstruction + added.kl) / options.batch_size
                is_last = (state.step + 1 == stop) | ~jnp.isfinite(loss)
                # Only of the last update: a pass over all gradients takes time.
                norm = lax.cond(is_last, optax.tree.norm, lambda _: jnp.float32(0), gradient)
                last = LastUpdate(loss, norm, jnp.bool(True))
                return TrainState(state.step + 1, params, optimizer), totals + added, last

            none = LastUpdate(jnp.float32(0), jnp.float32(0), jnp.bool(True))
            state, totals, last = lax.while_loop(goes_on, update, (state, totals, none))
            finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params)]
            last = dataclasses.replace(last, is_finite=jnp.stack(finite).all())
            return state, totals, last

        jitted = jax.jit(
            chunk,
            donate_argnums=(0, 1),
            in_shardings=self.devices.replicated,
            out_shardings=self.devices.replicated,
        )
        begin = jax.eval_shape(self._init)
        batches = jax.ShapeDtypeStruct((self.chunk_steps, options.batch_size), jnp.int32)
        number = jax.ShapeDtypeStruct((), jnp.int32)
        return jitted.lower(
            begin.state, begin.totals, self.images, batches, number, number
        ).compile()

    @property
    def _no_totals(self) -> Totals:
        return Totals.zero(self.config.model.num_latents, self.config.model.num_classes)

    @functools.cached_property
    def images(self) -> jax.Array:
        return self.devices.put(self.data.train)

    @functools.cached_property
    def devices(self) -> Devices:
        return Devices(self.config.mesh)

    @property
    def chunk_steps(self) -> int:
        """Steps of the longest chunk: a run may end before its first evaluation is due."""
        options = self.config.training
        return min(options.evaluate_every, options.steps, LONGEST_CHUNK)

    def batches(self, start: int, stop: int) -> np.ndarray:
        """Row numbers ``[chunk_steps, B]`` of the steps ``start .. stop - 1``, then zeros."""
        size = self.config.training.batch_size
        rows = batches_of(self.config.seed, len(self.data.train), size, range(start, stop))
        return np.pad(rows, ((0, self.chunk_steps - len(rows)), (0, 0)))

    def evaluate(self, params: Params, split: Literal["validation", "test"], step: int) -> Totals:
        """The bound on one part of the data, with noise of its own for every step."""
        key = jax.random.fold_in(self.key(split), step)
        data, samples = self.data, self.config.training.evaluation_samples
        return evaluate(self.model, params, getattr(data, split), data.scale, key, samples)

    def expected_records(self, step: int) -> list[tuple[int, str]]:
        """The (step, split) of every record of a run up to ``step``, without that of the test."""
        options = self.config.training
        steps = [*range(options.evaluate_every, step + 1, options.evaluate_every)]
        if step == options.steps and step % options.evaluate_every:
            steps.append(step)
        splits = ("train", "validation") if len(self.data.validation) else ("train",)
        return [(measured, split) for measured in steps for split in splits]

    @property
    def nbytes(self) -> int:
        """Of what a run holds at least: the snapshot, its gradient and the images."""
        begin = jax.eval_shape(self._init)
        held = jax.tree.leaves((begin, begin.state.params))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in held) + self.data.train.nbytes

    def run(self, snapshot: Snapshot) -> Iterator[tuple[Snapshot, list[dict[str, Any]]]]:
        """The rest of the run: after every chunk a new snapshot, and what was measured there.

        A chunk ends where an evaluation is due, and otherwise after about a second.

        Raises:
            NonFiniteLossError: before a damaged state is handed out.
        """
        state, totals, best = snapshot.state, snapshot.totals, snapshot.best
        every, last_step = self.config.training.evaluate_every, self.config.training.steps
        held, batches = range(0), None
        pace = Pace()
        while (start := int(state.step)) < last_step:
            if start >= held.stop:
                held, batches = self._batches_from(start)
            due = min(start - start % every + every, last_step)
            stop = min(due, held.stop, start + agreed(pace.chunk_steps))
            began = time.perf_counter()
            state, totals, last = self.compiled_chunk(
                state, totals, self.images, batches, np.int32(held.start), np.int32(stop)
            )
            last.check(int(state.step), self.temperature)
            pace.add(stop - start, time.perf_counter() - began)
            records = []
            if stop == due:
                records = self._measure(state, totals, pace.take_speed())
                totals = jax.tree.map(jnp.zeros_like, totals)
                best = self._better(best, state, records)
            yield Snapshot(state, totals, best), records

    def _batches_from(self, first: int) -> tuple[range, jax.Array]:
        """The steps from ``first`` on whose batches the device holds at once, and these."""
        steps = range(first, min(first + self.chunk_steps, self.config.training.steps))
        return steps, self.devices.put(self.batches(steps.start, steps.stop))

    def _measure(self, state: TrainState, totals: Totals, speed: float) -> list[dict[str, Any]]:
        """The records of a step: of the batches since the last ones, and of validation images."""
        step = int(state.step)
        found = {"train": totals.metrics()}
        if len(self.data.validation):
            found["validation"] = self.evaluate(state.params, "validation", step).metrics()
        temperature = float(self.temperature(step))
        common = {"temperature": temperature, "steps_per_second": round(speed, 1)}
        return [{"step": step, "split": split, **found[split], **common} for split in found]

    def _better(self, best: Best, state: TrainState, records: list[dict[str, Any]]) -> Best:
        """What to keep now: of the lowest validation bound, or the newest without validation."""
        has_bound = bool(len(self.data.validation))
        bound = records[-1]["neg_elbo"] if has_bound else math.inf
        if has_bound and not bound < float(best.bound):
            return best
        put = self.devices.put
        params = jax.tree.map(jnp.copy, state.params)
        return Best(put(np.int32(int(state.step))), put(np.float32(bound)), params)

    def test(self, best: Best) -> dict[str, Any]:
        """The record of the test images, at the parameters to keep."""
        step = int(best.step)
        return {
            "step": step,
            "split": "test",
            **self.evaluate(best.params, "test", step).metrics(),
            "temperature": float(self.temperature(step)),
        }
