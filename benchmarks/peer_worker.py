"""The worker of `peers.py`: one peer's samples, prepared and timed as it is asked.

    python benchmarks/peer_worker.py PEER

It runs in the environment that has the peer's packages. `of_jax` and `of_torch` give a call that
returns when its result is there, or None where a peer has no such cell.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import sys
import time

import numpy as np

SHAPES = {
    "128x20x10": (128, 20, 10),
    "4096x320": (4096, 320),
    "65536x2": (65536, 2),
    "65536x16": (65536, 16),
    "1024x8192": (1024, 8192),
    "256x50257": (256, 50257),
}
PEERS = {
    "ours": "here",
    "textbook": "here",
    "categorical": "here",
    "torch_function": "torch",
    "torch_compiled": "torch",
    "torch_distribution": "torch",
    "tfp": "peers",
    "distrax": "peers",
    "numpyro": "peers",
}
"""Of each peer, the environment that has its packages."""
PACKAGES = {
    "here": ["jax"],
    "torch": ["torch"],
    "peers": ["jax", "tensorflow-probability", "distrax", "numpyro"],
}
PARTS = {"forward over keys": (8, -1), "forward over a key a row": (-1,)}
"""Into which the rows are divided, of what is mapped over keys; each part has a key."""
COLUMNS = 256
"""Of the table of a lookup."""
SECONDS_A_TURN = 0.05
TEMPERATURE = 0.7


def inputs(shape):
    """Logits, and the weights of the loss."""
    return np.random.default_rng(0).normal(size=(2, *SHAPES[shape])).astype(np.float32)


def table(shape):
    """What a lookup reads."""
    return np.random.default_rng(1).normal(size=(SHAPES[shape][-1], COLUMNS)).astype(np.float32)


def jax_call(peer, shape, kind, passes):
    """``sample(key, logits, temperature)`` of a cell, of a peer that is jax."""
    import jax
    import jax.numpy as jnp

    rows = jnp.asarray(table(shape)) if kind == "lookup" else None
    if rows is not None and peer == "ours":
        import gs_modules as gs

        return lambda key, logits, temperature: gs.gumbel_lookup(key, logits, rows, temperature)[0]
    if rows is not None and peer == "categorical":
        return lambda key, logits, temperature: rows[jax.random.categorical(key, logits)]
    sample = jax_sample(peer, shape, "hard" if kind == "lookup" else kind)
    if sample is not None and rows is not None:
        return lambda *arguments: sample(*arguments) @ rows
    if sample is not None and passes in PARTS:
        return jax.vmap(sample, (0, 0, None))
    return sample


def jax_sample(peer, shape, kind):
    """``sample(key, logits, temperature)`` of a peer that is jax."""
    import jax
    import jax.numpy as jnp

    hard = kind == "hard"
    if peer == "ours":
        import gs_modules as gs

        return functools.partial(gs.gumbel_softmax, hard=hard)
    if peer == "textbook":
        from textbook import textbook

        return functools.partial(textbook, hard=hard)
    if peer == "categorical" and hard:
        return lambda key, logits, temperature: jax.nn.one_hot(
            jax.random.categorical(key, logits), logits.shape[-1], dtype=logits.dtype
        )
    if peer == "tfp" and not hard:
        from tensorflow_probability.substrates import jax as tfp

        law = tfp.distributions.RelaxedOneHotCategorical
        return lambda key, logits, temperature: law(temperature, logits=logits).sample(seed=key)
    if peer == "distrax" and hard:
        import distrax

        wrapped = distrax.straight_through_wrapper(distrax.OneHotCategorical)
        return lambda key, logits, temperature: wrapped(logits=logits).sample(seed=key)
    if peer == "numpyro" and not hard and SHAPES[shape][-1] == 2:
        from numpyro.distributions import RelaxedBernoulli

        def first_of_two(key, logits, temperature):
            law = RelaxedBernoulli(temperature, logits=logits[..., 0] - logits[..., 1])
            first = law.rsample(key)
            return jnp.stack([first, 1 - first], -1)

        return first_of_two
    return None


def of_jax(peer, shape, dtype, kind, passes):
    import jax
    import jax.numpy as jnp

    if peer == "tfp" and dtype != "float32":
        return None  # it refuses other logits beside its float32 noise
    sample = jax_call(peer, shape, kind, passes)
    if sample is None or (peer == "categorical" and passes == "forward+backward"):
        return None
    logits, weights = (jnp.asarray(array, dtype) for array in inputs(shape))
    if kind == "lookup":
        weights = jnp.resize(weights, (*logits.shape[:-1], COLUMNS))

    def forward(key, logits, temperature, weights):
        del weights
        return sample(key, logits, temperature)

    def both(key, logits, temperature, weights):
        drawn, pull_back = jax.vjp(lambda logits: sample(key, logits, temperature), logits)
        return drawn, pull_back(weights)[0]

    key = jax.random.key(0)
    if passes in PARTS:
        logits = logits.reshape(*PARTS[passes], logits.shape[-1])
        key = jax.random.split(key, len(logits))
    arguments = (key, logits, jnp.asarray(TEMPERATURE, dtype), weights)
    began = time.perf_counter()
    lowered = jax.jit(both if passes == "forward+backward" else forward).lower(*arguments)
    program = lowered.compile()
    seconds = time.perf_counter() - began
    temporary = program.memory_analysis().temp_size_in_bytes
    return (
        lambda: jax.block_until_ready(program(*arguments)),
        {"compile_seconds": round(seconds, 3), "temporary_megabytes": round(temporary / 1e6, 1)},
    )


def of_torch(peer, shape, dtype, kind, passes):
    import torch
    from torch.distributions import RelaxedOneHotCategorical
    from torch.nn.functional import gumbel_softmax

    hard = kind != "soft"
    if passes in PARTS:
        return None
    if peer == "torch_distribution":
        if hard:
            return None
        temperature = torch.tensor(TEMPERATURE, dtype=getattr(torch, dtype))

        def sample(logits):
            law = RelaxedOneHotCategorical(temperature, logits=logits, validate_args=False)
            return law.rsample()
    else:

        def sample(logits):
            drawn = gumbel_softmax(logits, TEMPERATURE, hard=hard)
            return drawn @ rows if kind == "lookup" else drawn

    if peer == "torch_compiled":
        torch.compiler.reset()  # after eight shapes of one function it would compile no other
        sample = torch.compile(sample)
    logits, weights = (torch.from_numpy(a).to(getattr(torch, dtype)) for a in inputs(shape))
    rows = torch.from_numpy(table(shape)) if kind == "lookup" else None
    if kind == "lookup":
        weights = weights[..., :COLUMNS].contiguous()

    def forward():
        with torch.no_grad():
            sample(logits)

    def both():
        leaf = logits.requires_grad_()
        leaf.grad = None
        sample(leaf).backward(weights)

    run = forward if passes == "forward" else both
    began = time.perf_counter()
    run()
    return run, {"compile_seconds": round(time.perf_counter() - began, 3)}


def work(peer: str) -> None:
    """Answers each line of standard input: a cell, to be prepared; ``run``, to be timed."""
    prepare = of_torch if PEERS[peer] == "torch" else of_jax
    run, calls = None, 1
    for line in sys.stdin:
        if line.strip() == "versions":
            answer = {name: importlib.metadata.version(name) for name in PACKAGES[PEERS[peer]]}
        elif line.strip() == "run":
            run()  # not counted: the turns of others have driven its arrays from the caches
            began = time.perf_counter()
            for _ in range(calls):
                run()
            answer = (time.perf_counter() - began) / calls
        else:
            prepared = prepare(peer, *json.loads(line))
            answer = None
            if prepared is not None:
                run, answer = prepared
                run()
                began = time.perf_counter()
                run()
                calls = max(1, int(SECONDS_A_TURN / (time.perf_counter() - began)))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    work(sys.argv[1])
