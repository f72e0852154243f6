"""The numbers of `docs/moving-in.md`: rare classes, ties, one-hot rows and cold densities, by peer.

    PYTHON_WITH_THE_PEER benchmarks/peer_laws.py PEER

PEER is `torch`, `tfp`, `distrax`, `textbook` or `here`. Each needs its own packages only, so that
each can live in an environment of its own. Writes `benchmarks/results/peer_laws_PEER.json`.

* `rare`: how often a class of probability .001 is drawn beside one of .999, by the expected
  number: two million draws, standard error .022.
* `very_rare`: the same for 1e-7 in float32, exact over the values that the noise of the rare class
  can take; of `gumbel_softmax` in torch, over a billion draws, standard error about .07.
* `infinite_noises`: of 200 million draws of float16 noise in torch.
* `first_of_two_equal`: how often the first of two equal classes is drawn at temperature 10: a
  million draws, standard error .0005.
* `not_one_hot`: the share of hard rows over 8 classes with another value than 0 and 1.
* `no_density`: the share of 10,000 own samples, at temperature .02 and over 8 equal classes, whose
  log-density is not finite.
"""

import argparse
import importlib.metadata
import json

import numpy as np
from recording import record

TWO = np.log([0.999, 0.001])
VERY_RARE = 1e-7
PACKAGES = {
    "torch": ["torch"],
    "tfp": ["tensorflow-probability", "jax"],
    "distrax": ["distrax", "jax"],
    "textbook": ["jax"],
    "here": ["jax"],
}


def share_of_very_rare(exponentials, weight=None):
    """``P(E < odds * E') / probability`` for each given ``E`` of the rare class, averaged."""
    wins = np.exp(-np.asarray(exponentials, np.float64) * (1 - VERY_RARE) / VERY_RARE)
    return float((wins.mean() if weight is None else wins.sum() * weight) / VERY_RARE)


def share_not_one_hot(rows):
    rows = np.asarray(rows).astype(np.float32)
    return float(1 - ((rows == 0) | (rows == 1)).all(-1).mean())


def share_not_finite(values):
    return float(np.mean(~np.isfinite(np.asarray(values))))


def torch_numbers():
    import torch
    from torch.distributions import RelaxedBernoulli, RelaxedOneHotCategorical
    from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
    from torch.distributions.relaxed_categorical import ExpRelaxedCategorical
    from torch.nn.functional import gumbel_softmax

    torch.manual_seed(0)
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

    def second(rows):
        return (rows[:, 1] > rows[:, 0]).double().mean().item() / 0.001

    def density(kind):
        law = kind(torch.tensor(0.02), logits=torch.zeros(8), validate_args=False)
        return share_not_finite(law.log_prob(law.rsample((10_000,))))

    def billion():
        draws = (torch.empty(10_000_000).exponential_().numpy() for _ in range(100))
        return float(np.mean([share_of_very_rare(draw) for draw in draws]))

    function, distribution = {}, {}
    for name, dtype in dtypes.items():
        two = torch.tensor(TWO, dtype=dtype)
        one = torch.ones((), dtype=dtype)
        normal = torch.randn(100_000, 8, dtype=dtype)
        equal = gumbel_softmax(torch.zeros(1_000_000, 2, dtype=dtype), 10.0, hard=True)
        function[name] = {
            "rare": second(gumbel_softmax(two.expand(2_000_000, 2), hard=True)),
            "first_of_two_equal": equal[:, 0].nanmean(dtype=torch.float64).item(),
            "not_one_hot": share_not_one_hot(gumbel_softmax(normal, hard=True).float()),
        }
        law = RelaxedOneHotCategorical(one, logits=two)
        distribution[name] = {"rare": second(law.rsample((2_000_000,)))}
    function["float32"]["very_rare"] = billion()
    function["float16"]["infinite_noises"] = sum(
        (torch.empty(10_000_000, dtype=torch.float16).exponential_() == 0).sum().item()
        for _ in range(20)
    )
    epsilon = 2.0**-23  # torch.distributions clamps the uniforms by it, on both sides
    uniforms = np.clip(np.arange(2**24) / 2**24, epsilon, 1 - epsilon)
    distribution["float32"]["very_rare"] = share_of_very_rare(-np.log(uniforms))
    kinds = [
        RelaxedOneHotCategorical,
        ExpRelaxedCategorical,
        RelaxedBernoulli,
        LogitRelaxedBernoulli,
    ]
    no_density = {kind.__name__: density(kind) for kind in kinds}
    return {"gumbel_softmax": function, "distributions": distribution, "no_density": no_density}


def tfp_numbers():
    import jax
    import jax.numpy as jnp
    from tensorflow_probability.substrates import jax as tfp

    kinds = [
        tfp.distributions.RelaxedOneHotCategorical,
        tfp.distributions.ExpRelaxedOneHotCategorical,
        tfp.distributions.RelaxedBernoulli,
    ]

    def rare(dtype):
        law = kinds[0](jnp.ones((), dtype), logits=jnp.asarray(TWO, dtype))
        rows = law.sample(2_000_000, seed=jax.random.key(0))
        return float((rows[:, 1] > rows[:, 0]).mean()) / 0.001

    def density(kind):
        law = kind(0.02, logits=jnp.zeros(8))
        # The copy is unknown to TFP's cache, which would give the logarithm that it came from.
        sample = law.sample(10_000, seed=jax.random.key(0)) + 0
        return share_not_finite(law.log_prob(sample))

    return {
        "float32": {"rare": rare(jnp.float32), "very_rare": of_jax_uniforms()},
        "float16": {"rare": rare(jnp.float16)},
        "no_density": {kind.__name__: density(kind) for kind in kinds},
    }


def of_jax_uniforms():
    """float32 uniforms of JAX are the multiples of ``2**-23`` below 1; 0 is lifted a little."""
    return share_of_very_rare(-np.log(np.arange(1, 2**23) / 2**23))


def distrax_numbers():
    import distrax
    import jax
    import jax.numpy as jnp

    wrapped = distrax.straight_through_wrapper(distrax.OneHotCategorical)
    numbers = {}
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        law = wrapped(logits=jnp.asarray(TWO, dtype))
        sample = jax.jit(lambda key, logits: wrapped(logits=logits).sample(seed=key))
        rows = law.sample(seed=jax.random.key(0), sample_shape=2_000_000)
        normal = jax.random.normal(jax.random.key(1), (100_000, 8)).astype(dtype)
        numbers[dtype.__name__] = {
            "rare": float(rows[:, 1].astype(jnp.float32).mean()) / 0.001,
            "not_one_hot": share_not_one_hot(sample(jax.random.key(0), normal)),
        }
    return numbers


def textbook_numbers():
    import jax
    import jax.numpy as jnp
    from textbook import textbook

    numbers = of_jax_function(textbook)
    numbers["float32"]["very_rare"] = of_jax_uniforms()
    normal = jax.random.normal(jax.random.key(1), (100_000, 8))

    @jax.jit
    def in_another_order(key):
        soft = textbook(key, normal, hard=False)
        drawn = jax.nn.one_hot(jnp.argmax(soft, -1), soft.shape[-1], dtype=soft.dtype)
        return drawn + soft - jax.lax.stop_gradient(soft)

    rows = in_another_order(jax.random.key(0))
    numbers["float32"]["not_one_hot_of_h_plus_y_minus_y"] = share_not_one_hot(rows)
    return numbers


def of_jax_function(sample):
    """The numbers of a hard ``sample(key, logits, temperature)``, compiled and not."""
    import jax
    import jax.numpy as jnp

    numbers = {}
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        two = jnp.broadcast_to(jnp.asarray(TWO, dtype), (2_000_000, 2))
        equal = jnp.zeros((1_000_000, 2), dtype)
        normal = jax.random.normal(jax.random.key(1), (100_000, 8)).astype(dtype)
        key = jax.random.key(0)
        rare = sample(key, two, 1.0)[:, 1].astype(jnp.float32).mean()
        first = sample(key, equal, 10.0)[:, 0].astype(jnp.float32).mean()
        numbers[dtype.__name__] = {
            "rare": float(rare) / 0.001,
            "first_of_two_equal": float(first),
            "not_one_hot": share_not_one_hot(sample(key, normal, 1.0)),
            "not_one_hot_compiled": share_not_one_hot(jax.jit(sample)(key, normal, 1.0)),
        }
    return numbers


def here_numbers():
    import jax
    import jax.numpy as jnp

    import gs_modules as gs

    numbers = of_jax_function(
        lambda key, logits, temperature: gs.gumbel_softmax(key, logits, temperature, hard=True)
    )
    # Each bit pattern of the right tail once; the others weigh less than 1e-90. Only generators
    # other than threefry draw by jax.random.bits.
    tail = np.arange(100_000, dtype=np.uint32)
    original = jax.random.bits
    jax.random.bits = lambda key, shape, dtype, **_: jnp.asarray(tail, dtype)
    try:
        with jax.disable_jit():
            noise = gs.gumbel_noise(jax.random.key(0, impl="rbg"), tail.shape)
    finally:
        jax.random.bits = original
    exponentials = np.exp(-np.asarray(noise, np.float64))
    numbers["float32"]["very_rare"] = share_of_very_rare(exponentials, 2.0**-32)
    equal, key = jnp.zeros((10_000, 8)), jax.random.key(0)
    categorical = gs.relaxed_categorical_log_prob(
        gs.gumbel_log_softmax(key, equal, 0.02), equal, 0.02
    )
    binary = gs.relaxed_bernoulli_log_prob(gs.gumbel_log_odds(key, equal, 0.02), equal, 0.02)
    numbers["no_density"] = {
        "relaxed_categorical_log_prob": share_not_finite(categorical),
        "relaxed_bernoulli_log_prob": share_not_finite(binary),
    }
    return numbers


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value


MEASURED = {
    "torch": torch_numbers,
    "tfp": tfp_numbers,
    "distrax": distrax_numbers,
    "textbook": textbook_numbers,
    "here": here_numbers,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peer", choices=MEASURED)
    peer = parser.parse_args().peer
    versions = {name: importlib.metadata.version(name) for name in PACKAGES[peer]}
    results = rounded(MEASURED[peer]())
    command = f"python benchmarks/peer_laws.py {peer}"
    record(f"peer_laws_{peer}", command, versions=versions, results=results)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
