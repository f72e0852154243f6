"""This library on a GPU, beside textbook JAX, `jax.random.categorical` and a copy of the logits.

    python benchmarks/gpu.py

Every figure is the median time of a compiled call, of many that are dispatched before the last is
waited for. `of_copy` compares the bytes that the work must move, each input read and each output
written once, with what an elementwise copy of the same array moves in the same run; below 30 to
70 microseconds it is the dispatch that is measured. `xla` is this library without its kernels.
Textbook JAX is `jax.random.uniform`, two logarithms with an epsilon, a softmax, and
`stop_gradient(one_hot(argmax) - y) + y`. Forward and backward are kept apart by a barrier, as the
decoder of a model would. Writes `benchmarks/results/gpu_NAME.json`.
"""

import argparse
import functools
import importlib.metadata
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import lax
from recording import RESULTS, record
from textbook import textbook

import gs_modules as gs
from gs_modules import _kernels

LARGE = [(2**22, 16), (2**19, 128), (65536, 1000), (8192, 8192), (4096, 50257)]
SMALL = [(2560, 10), (4096, 320), (65536, 2), (65536, 16), (1024, 8192), (256, 50257)]
HALF = [(2**19, 128), (8192, 8192), (4096, 320)]
TEMPERATURE = 0.5
CALLS, REPETITIONS = 20, 5


def forward_and_backward(draw):
    def both(key, logits, cotangent):
        sample, backward = jax.vjp(functools.partial(draw, key), logits)
        sample, cotangent = lax.optimization_barrier((sample, cotangent))
        return sample, *backward(cotangent)

    return both


def works(itemsize):
    """Name to function of key, logits and cotangent, and the bytes that it moves per logit."""

    def soft(key, logits):
        return gs.gumbel_softmax(key, logits, TEMPERATURE)

    def hard(key, logits):
        return gs.gumbel_softmax(key, logits, TEMPERATURE, hard=True)

    hard_textbook = functools.partial(textbook, temperature=TEMPERATURE)
    soft_textbook = functools.partial(hard_textbook, hard=False)
    forward = {
        "soft": {"here": soft, "textbook": soft_textbook},
        "hard": {"here": hard, "textbook": hard_textbook},
        "index": {"here": gs.gumbel_max, "categorical": jax.random.categorical},
    }
    # Backward reads the relaxed sample, float32, and the cotangent, and writes the gradient.
    bytes_moved = {"soft": 2 * itemsize, "hard": 2 * itemsize, "index": itemsize}
    backward = {"soft": 4 + 4 * itemsize, "hard": 8 + 4 * itemsize}
    for name, draws in forward.items():
        for whose, draw in draws.items():
            yield f"{name} {whose}", lambda key, x, _, f=draw: f(key, x), bytes_moved[name]
            if name in backward:
                both = forward_and_backward(draw)
                yield f"{name} forward + backward {whose}", both, backward[name]


def without_kernels(function):
    """``function``, traced while there are none; jax would remember what it traced before."""

    def traced(*args):
        jax.clear_caches()
        serve, _kernels.serve = _kernels.serve, lambda *_: False
        try:
            return function(*args)
        finally:
            _kernels.serve = serve
            jax.clear_caches()

    return traced


def seconds(compiled, keys, *args):
    times = []
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        for number in range(CALLS):
            result = compiled(keys[number % len(keys)], *args)
        jax.block_until_ready(result)
        times.append((time.perf_counter() - began) / CALLS)
    return statistics.median(times)


def measure(rows, classes, dtype):
    logits = jax.random.normal(jax.random.key(5), (rows, classes), dtype)
    cotangent = jax.random.normal(jax.random.key(6), logits.shape, dtype)
    keys = {
        implementation: [jax.random.key(seed, impl=implementation) for seed in range(4)]
        for implementation in ("threefry2x32", "rbg")
    }
    itemsize = logits.dtype.itemsize
    jobs = {"copy": (lambda key, x, _: x * 1.5, "rbg", 2 * itemsize)}
    for implementation in keys:
        for name, function, moved in works(itemsize):
            jobs[f"{name}, {implementation}"] = function, implementation, moved
            if name.endswith("here"):
                name = name.removesuffix("here") + f"xla, {implementation}"
                jobs[name] = without_kernels(function), implementation, moved
    lowered = [
        jax.jit(function).lower(keys[implementation][0], logits, cotangent)
        for function, implementation, _ in jobs.values()
    ]
    with ThreadPoolExecutor() as pool:
        compiled = list(pool.map(lambda program: program.compile(), lowered))
    results = {}
    for (name, (_, implementation, moved)), program in zip(jobs.items(), compiled, strict=True):
        jax.block_until_ready(program(keys[implementation][0], logits, cotangent))
        took = seconds(program, keys[implementation], logits, cotangent)
        results[name] = {"microseconds": took * 1e6, "bytes": logits.size * moved}
    copy = results["copy"]["bytes"] / results["copy"]["microseconds"]
    return {
        name: {
            "microseconds": round(result["microseconds"], 1),
            "terabytes_per_second": round(result["bytes"] / result["microseconds"] / 1e6, 3),
            "of_copy": round(result["bytes"] / result["microseconds"] / copy, 3),
        }
        for name, result in results.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--name", help="of the result, by default that of the device")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--shapes", nargs="*", help="such as 4096x320, and no record")
    arguments = parser.parse_args()
    device = jax.devices()[0].device_kind
    name = arguments.name or "gpu_" + device.lower().removeprefix("nvidia ").replace(" ", "_")
    shapes = [tuple(map(int, shape.split("x"))) for shape in arguments.shapes or ()]
    cases = [(*shape, jnp.float32) for shape in shapes or LARGE]
    if not shapes:
        cases += [(*shape, jnp.bfloat16) for shape in HALF]
        cases += [(*shape, jnp.float32) for shape in SMALL]
    versions = {package: importlib.metadata.version(package) for package in ("jax", "jaxlib")}
    results = []
    for rows, classes, dtype in cases:
        result = measure(rows, classes, dtype)
        dtype = jnp.dtype(dtype).name
        results.append({"rows": rows, "classes": classes, "dtype": dtype, **result})
        print(f"{rows} x {classes} {dtype}")
        for work, figures in result.items():
            print(f"  {work:44}{figures['microseconds']:10.1f} us{figures['of_copy']:7.2f} of copy")
        if not shapes:
            command = "python benchmarks/gpu.py"
            record(name, command, arguments.output, device=device, **versions, results=results)


if __name__ == "__main__":
    main()
