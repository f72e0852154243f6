"""Strict JAX on four simulated devices for every test, and a count of compilations."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

# What one test compiled, the next loads: pytest-xdist's workers and the commands that tests start
# inherit the folder. It must be named before JAX is imported.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="gs-modules-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Doctests are collected by the name of a module, and several folders have one of this name.
collect_ignore_glob = ["conftest.py", "*/conftest.py"]

_compilations = []


@jax.monitoring.register_event_duration_secs_listener
def _listen(event: str, duration: float, **details: object) -> None:
    del duration, details
    if event == "/jax/core/compile/backend_compile_duration":
        _compilations.append(event)


@pytest.fixture
def compilations() -> Iterator[Callable[[], int]]:
    """How many programs XLA compiled since the last call; a first program proves that it counts."""
    _compilations.clear()
    jax.jit(lambda x: x + 1)(0)
    assert len(_compilations) == 1, "jax.monitoring has renamed the event of a compilation"

    def since_last_call() -> int:
        count = len(_compilations)
        _compilations.clear()
        return count

    since_last_call()
    yield since_last_call


@pytest.fixture
def empty_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config of defaults in the working folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text("")
    return path


@pytest.fixture
def promotion_as_users_have_it() -> Iterator[None]:
    """Optax and Flax need the default promotion rules; only the core is written for strict ones."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
