"""The space of a search: what each key may be, and which keys a trial has."""

from collections import Counter

import numpy as np
import optuna
import pytest
from studies import CONFIGS, SMALL, given

from gs_modules.train.tune.config import load
from gs_modules.train.tune.space import suggest, values_of_base

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]


def drawn(tuning, count=200):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    return [suggest(study.ask(), tuning.search, tuning.base) for _ in range(count)]


def test_keys_of_a_kind_are_in_the_trials_of_that_kind_alone(file):
    found = drawn(given(file, SMALL))
    assert {frozenset(params) for params in found} == {
        frozenset({"temperature.kind", "temperature.value", "optimizer.learning_rate"}),
        frozenset({"temperature.kind", "temperature.rate", "optimizer.learning_rate"}),
    }
    kinds = Counter(params["temperature.kind"] for params in found)
    # Half of 200 each, with a standard deviation of 7: a false alarm in 1e9 draws.
    assert all(abs(count - 100) < 6 * 7.1 for count in kinds.values())


def test_every_kind_can_be_searched_with_all_of_its_keys_and_every_trial_is_a_config():
    tuning = load(CONFIGS / "tune_digits.yaml", check_root=True)
    for params in drawn(tuning):
        config = tuning.config_of(params)
        for key, value in params.items():
            section, name = key.split(".")
            assert getattr(getattr(config, section), name) == value
        rest = {"seed", "framework", "data", "model", "training"}
        assert config.model_dump(include=rest) == tuning.base.model_dump(include=rest)


def test_a_search_within_the_kind_of_the_base_needs_no_kind(file):
    tuning = given(file, "search: {temperature.rate: [1e-3, 1e-2]}")
    assert {params["temperature.rate"] for params in drawn(tuning)} == {1e-3, 1e-2}


def test_ranges_keep_their_ends_their_steps_and_their_scale(file):
    tuning = given(
        file,
        "search:\n"
        "  training.batch_size: {low: 20, high: 100, step: 40}\n"
        "  model.num_latents: {low: 1, high: 3}\n"
        "  optimizer.learning_rate: {low: 1e-4, high: 1e-2, log: true}\n"
        "  training.flip_probability: {low: 0, high: 0.5}\n",
    )
    found = {key: [params[key] for params in drawn(tuning)] for key in tuning.search}
    assert set(found["training.batch_size"]) == {20, 60, 100}
    assert set(found["model.num_latents"]) == {1, 2, 3}
    assert all(isinstance(value, int) for value in found["model.num_latents"])
    # Uniform: means within five standard errors, a false alarm in 2e6 draws.
    scaled = (np.log10(found["optimizer.learning_rate"]) + 4) / 2
    for uniform in (scaled, np.divide(found["training.flip_probability"], 0.5)):
        assert uniform.min() >= 0 and uniform.max() <= 1
        assert abs(uniform.mean() - 0.5) < 5 / np.sqrt(12 * len(uniform))


def test_lists_are_values_too(file):
    tuning = given(file, "search: {model.hidden: [[8], [16, 8]], model.prior: [uniform, learned]}")
    configs = [tuning.config_of(params) for params in drawn(tuning, 40)]
    assert {config.model.hidden for config in configs} == {(8,), (16, 8)}
    assert {config.model.prior for config in configs} == {"uniform", "learned"}


def test_the_values_of_the_base_are_the_first_trial_as_far_as_the_space_holds_them(file):
    tuning = given(file, SMALL)
    expected = {"temperature.kind": "exponential", "optimizer.learning_rate": 2e-3}
    assert values_of_base(tuning.search, tuning.base) == expected  # the rate of 2e-4 is below low
    study = optuna.create_study()
    study.enqueue_trial(expected)
    assert expected.items() < suggest(study.ask(), tuning.search, tuning.base).items()
