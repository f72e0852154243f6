"""Two thousand steps as a process: one compilation, and memory that does not grow."""

import os
import subprocess
from pathlib import Path

import pytest
from runs import COMMAND, flags

pytestmark = [pytest.mark.command]

MEGABYTE = 2**20


def resident_bytes(process):
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
def test_memory_does_not_grow_and_the_step_is_compiled_once(tmp_path):
    config = tmp_path / "small.yaml"
    config.write_text("")
    options = flags(training__steps=2000, training__checkpoint_every=200)
    command = [*COMMAND, "train", str(config), "--run-dir", str(tmp_path / "run"), *options]
    environment = {**os.environ, "JAX_LOG_COMPILES": "1"}
    log = tmp_path / "log"
    resident = {}
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step "):
                resident[int(line.split()[1])] = resident_bytes(process)
    assert process.returncode == 0
    assert resident[2000] - resident[200] < 20 * MEGABYTE
    compiled = [line for line in log.read_text().splitlines() if "Finished XLA compilation" in line]
    assert sum("jit(chunk)" in line for line in compiled) == 1
    assert len(compiled) > 3
