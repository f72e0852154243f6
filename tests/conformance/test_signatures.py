"""A module is the same class in every front-end: its name, its options, its call."""

import inspect
from inspect import Parameter

import pytest
from frameworks import FRAMEWORKS, REQUIRED, public_modules

KEYWORD = Parameter.KEYWORD_ONLY
IDIOMS = {"self", "rngs", "in_features", "name", "parent"}
"""What only one framework has."""

MODULES = sorted(set().union(*(public_modules(framework) for framework in FRAMEWORKS)))


def arguments(function):
    return {
        name: (parameter.kind, parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in IDIOMS
    }


def positional(arguments):
    """In their order, unlike keywords: a dataclass puts inherited ones first."""
    return [name for name, (kind, _) in arguments.items() if kind is not KEYWORD]


def test_every_module_is_described_for_this_suite():
    assert sorted(REQUIRED) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_every_front_end_has_the_module_with_the_same_options_and_call(module):
    classes = [public_modules(framework).get(module) for framework in FRAMEWORKS]
    assert None not in classes, f"{module} is missing from a front-end"
    for method in ("__init__", "__call__"):
        first, *others = [arguments(getattr(cls, method)) for cls in classes]
        assert first and all(other == first for other in others)
        assert all(positional(other) == positional(first) for other in others)
    options = arguments(classes[0].__init__)
    required = [name for name, (_, default) in options.items() if default is Parameter.empty]
    assert list(REQUIRED[module]) == required


@pytest.mark.parametrize("module", MODULES)
def test_options_and_call_are_those_of_the_contract(module):
    for framework in FRAMEWORKS:
        cls = public_modules(framework)[module]
        options = arguments(cls.__init__)
        contract = ["temperature", "estimator", "deterministic", "dtype", "rng_collection"]
        assert {name: options[name][0] for name in contract} == dict.fromkeys(contract, KEYWORD)
        call = ["where", "deterministic", "temperature", "step", "key"]
        if module == "GumbelGate":
            call.insert(1, "bias")
        of_call = arguments(cls.__call__)
        assert list(of_call) == ["x", *call]
        for name in call:
            assert of_call[name] == (KEYWORD, None)
        assert of_call["x"][1] is (None if module == "GumbelGate" else Parameter.empty)


def test_set_step_is_everywhere():
    for framework in FRAMEWORKS:
        assert "set_step" in framework.api.__all__
