"""Checkpoints: whole or not there, and never another state than the one that was saved."""

import contextlib
import errno
import logging
import os
import resource
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from runs import small_config

from gs_modules.train.checkpoint import SUMS, Checkpoints
from gs_modules.train.config_file import ConfigError

pytestmark = pytest.mark.command


@contextlib.contextmanager
def no_file_larger_than(size):
    """Writes beyond ``size`` bytes fail within the system, as on a full disk but without one."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_step_that_cannot_be_saved_is_one_error_and_leaves_the_others(checkpoints, caplog):
    old, new = ({"x": jnp.asarray(np.random.default_rng(n).normal(size=9000))} for n in range(2))
    checkpoints.save(1, old)
    with pytest.raises(OSError, match="cannot be saved") as refused, no_file_larger_than(8192):
        checkpoints.save(2, new)
    assert refused.value.strerror == f"step 2 cannot be saved: {os.strerror(errno.EFBIG)}"
    assert refused.value.filename == str(checkpoints.folder) and not caplog.records
    assert np.array_equal(checkpoints.restore(new)[0]["x"], old["x"])
    checkpoints.save(2, new)  # there is room again
    assert np.array_equal(checkpoints.restore(old)[0]["x"], new["x"])


def test_a_disk_that_fills_up_within_orbax_is_one_error_too(checkpoints, monkeypatch, caplog):
    def save(*arguments, **options):
        logging.getLogger("absl").error("a traceback")
        raise ValueError("RESOURCE_EXHAUSTED: Error writing \"a/0\" [os_error_code='28']")

    monkeypatch.setattr(ocp.Checkpointer, "save", save)
    with pytest.raises(OSError, match="saved") as refused:
        checkpoints.save(1, {"x": jnp.zeros(3)})
    assert refused.value.strerror == f"step 1 cannot be saved: {os.strerror(errno.ENOSPC)}"
    assert refused.value.filename == str(checkpoints.folder) and not caplog.records


def tree(seed):
    """A state of every kind of leaf that a run has."""
    draw = np.random.default_rng(seed).normal(size=(5, 3))
    return {
        "step": jnp.int32(seed),
        "wide": jnp.asarray(draw, jnp.float32),
        "half": jnp.asarray(draw, jnp.bfloat16),
        "counts": jnp.arange(7, dtype=jnp.int32) + seed,
    }


def assert_same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert jax.tree.map(lambda leaf: leaf.dtype, ours) == jax.tree.map(lambda x: x.dtype, theirs)


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", small_config())


def test_the_newest_of_two_steps_comes_back_bitwise_and_older_ones_go(checkpoints):
    empty, damaged = checkpoints.restore(like := tree(0))
    assert empty is like and damaged == {}
    for step in (1, 2, 10):
        checkpoints.save(step, tree(step))
    assert checkpoints.steps() == [2, 10]
    restored, damaged = checkpoints.restore(tree(0))
    assert_same(restored, tree(10))
    assert damaged == {}


def test_the_sums_are_those_of_sha256sum(checkpoints):
    checkpoints.save(1, tree(1))
    folder = checkpoints.folder / "1"
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum here")
    command = ["sha256sum", "--check", "--strict", SUMS]
    output = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {line.removesuffix(": OK") for line in output.splitlines()} == files - {SUMS}
    assert "config.yaml" in files and len(files) > 8


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


HARM = {
    "deleted": lambda path: path.unlink(),
    "emptied": lambda path: os.truncate(path, 0),
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a byte flipped": flip,
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_harm_to_any_file_of_the_newest_step_is_named_and_the_older_step_taken(harm, checkpoints):
    for step in (1, 2):
        checkpoints.save(step, tree(step))
    newest = checkpoints.folder / "2"
    whole = {path: path.read_bytes() for path in newest.rglob("*") if path.is_file()}
    assert len(whole) > 8
    for path, content in whole.items():
        if not content and harm is not HARM["deleted"]:
            continue  # an empty file has no half and no byte
        harm(path)
        restored, damaged = checkpoints.restore(tree(0))
        assert_same(restored, tree(1))
        assert damaged.keys() == {2}
        assert damaged[2].startswith(f"{newest}: ")
        assert path.name in damaged[2] or path.name == SUMS
        path.write_bytes(content)
    assert_same(checkpoints.restore(tree(0))[0], tree(2))


def test_a_file_too_many_and_an_empty_folder_are_harm_too(checkpoints):
    checkpoints.save(1, tree(1))
    checkpoints.save(2, tree(2))
    (checkpoints.folder / "2" / "state" / "more").touch()
    (checkpoints.folder / "3").mkdir()
    restored, damaged = checkpoints.restore(tree(0))
    assert_same(restored, tree(1))
    assert "state/more is not in" in damaged[2] and "cannot be read" in damaged[3]


def test_a_damaged_step_is_set_aside_and_written_again(checkpoints):
    checkpoints.save(1, tree(1))
    checkpoints.save(2, tree(2))
    flip(checkpoints.folder / "2" / "config.yaml")
    checkpoints.set_aside(2)
    checkpoints.save(2, tree(4))
    assert checkpoints.steps() == [1, 2]
    assert_same(checkpoints.restore(tree(0))[0], tree(4))
    assert (checkpoints.folder / "2.damaged").is_dir()


def test_without_a_good_step_nothing_is_restored(checkpoints):
    checkpoints.save(1, tree(1))
    flip(checkpoints.folder / "1" / SUMS)
    with pytest.raises(ConfigError, match="no step can be continued from; --restart") as refused:
        checkpoints.restore(tree(0))
    assert refused.value.lines[0].startswith(f"{checkpoints.folder / '1'}: ")


def test_a_save_that_was_killed_is_no_step_and_its_rest_goes(checkpoints):
    checkpoints.save(1, tree(1))
    shutil.copytree(checkpoints.folder / "1", checkpoints.folder / "2.part")
    assert checkpoints.steps() == [1]
    checkpoints.save(3, tree(3))
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["1", "3"]


def test_a_checkpoint_of_another_config_is_refused_with_both_values(checkpoints):
    checkpoints.save(1, tree(1))
    other = Checkpoints(checkpoints.folder, small_config(optimizer__learning_rate=0.5))
    with pytest.raises(ConfigError, match=r"--run-dir .* or --restart") as refused:
        other.restore(tree(0))
    assert refused.value.lines[1].endswith("optimizer.learning_rate: 0.002 -> 0.5")
