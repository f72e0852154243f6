"""Gumbel-Softmax for JAX: exact samples, gradient estimators, temperature schedules.

The modules are in ``gs_modules.nnx``, ``gs_modules.linen`` and ``gs_modules.haiku``.
"""

from gs_modules._binary import gumbel_sigmoid
from gs_modules._categorical import (
    gumbel_lookup,
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
from gs_modules._metrics import CodeUsage
from gs_modules._modules import (
    check_clock,
    check_count,
    check_estimator,
    check_temperature,
    draw,
    draw_deterministic,
    has_learned_prior,
    latent_logits,
    latent_output,
    resolve_deterministic,
    resolve_temperature,
)
from gs_modules._noise import gumbel_noise
from gs_modules._objectives import (
    categorical_entropy,
    categorical_kl,
    categorical_log_prob,
    leave_one_out_reinforce,
)
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
from gs_modules._types import Estimator, LatentOutput, Prior, Schedule

__all__ = [
    "ESTIMATORS",
    "SCHEDULES",
    "CodeUsage",
    "Constant",
    "Cosine",
    "Cyclic",
    "DecoupledStraightThrough",
    "Estimator",
    "Exponential",
    "GappedStraightThrough",
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
    "as_step",
    "categorical_entropy",
    "categorical_kl",
    "categorical_log_prob",
    "check_clock",
    "check_count",
    "check_estimator",
    "check_temperature",
    "draw",
    "draw_deterministic",
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
    "straight_through_argmax",
]
