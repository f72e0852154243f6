"""Gumbel-Softmax for JAX: exact samples, gradient estimators, temperature schedules.

The modules are in ``gs_modules.nnx``, ``gs_modules.linen`` and ``gs_modules.haiku``.
"""

from gs_modules._arguments import check_key, errors_of
from gs_modules._binary import gumbel_sigmoid
from gs_modules._categorical import (
    gumbel_max,
    gumbel_softmax,
    log_weights,
    straight_through_argmax,
)
from gs_modules._concrete import (
    gumbel_log_odds,
    gumbel_log_softmax,
    relaxed_bernoulli_log_prob,
    relaxed_categorical_kl,
    relaxed_categorical_log_prob,
)
from gs_modules._estimators import (
    ESTIMATORS,
    DecoupledStraightThrough,
    GappedStraightThrough,
    GumbelRao,
    Pathwise,
    ReinMax,
    StraightThrough,
    StraightThroughArgmax,
    StraightThroughGumbel,
)
from gs_modules._gate_law import balancing_bias, check_gate, gate_features, gate_law
from gs_modules._gates import GateOutput, gate_output
from gs_modules._latents import LatentOutput, has_learned_prior, latent_logits, latent_output
from gs_modules._lookup import gumbel_lookup
from gs_modules._metrics import Usage
from gs_modules._modules import (
    check_clock,
    check_dtype,
    check_estimator,
    check_step,
    check_temperature,
    draw,
    draw_deterministic,
    resolve_deterministic,
    resolve_temperature,
    sample_output,
)
from gs_modules._noise import gumbel_noise
from gs_modules._objectives import (
    categorical_entropy,
    categorical_kl,
    categorical_log_prob,
    leave_one_out_reinforce,
)
from gs_modules._scalars import check_count
from gs_modules._schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    Cyclic,
    Exponential,
    Linear,
    Piecewise,
    as_step,
    next_step,
)
from gs_modules._subset import gumbel_top_k
from gs_modules._types import Estimator, Prior, Schedule

__all__ = [
    "ESTIMATORS",
    "SCHEDULES",
    "Constant",
    "Cosine",
    "Cyclic",
    "DecoupledStraightThrough",
    "Estimator",
    "Exponential",
    "GappedStraightThrough",
    "GateOutput",
    "GumbelRao",
    "LatentOutput",
    "Linear",
    "Pathwise",
    "Piecewise",
    "Prior",
    "ReinMax",
    "Schedule",
    "StraightThrough",
    "StraightThroughArgmax",
    "StraightThroughGumbel",
    "Usage",
    "as_step",
    "balancing_bias",
    "categorical_entropy",
    "categorical_kl",
    "categorical_log_prob",
    "check_clock",
    "check_count",
    "check_dtype",
    "check_estimator",
    "check_gate",
    "check_key",
    "check_step",
    "check_temperature",
    "draw",
    "draw_deterministic",
    "errors_of",
    "gate_features",
    "gate_law",
    "gate_output",
    "gumbel_log_odds",
    "gumbel_log_softmax",
    "gumbel_lookup",
    "gumbel_max",
    "gumbel_noise",
    "gumbel_sigmoid",
    "gumbel_softmax",
    "gumbel_top_k",
    "has_learned_prior",
    "latent_logits",
    "latent_output",
    "leave_one_out_reinforce",
    "log_weights",
    "next_step",
    "relaxed_bernoulli_log_prob",
    "relaxed_categorical_kl",
    "relaxed_categorical_log_prob",
    "resolve_deterministic",
    "resolve_temperature",
    "sample_output",
    "straight_through_argmax",
]
