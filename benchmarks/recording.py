"""What benchmarks write: what was measured, by which command, on which machine, and when."""

import datetime
import json
import os
import platform
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def record(name, command, folder=RESULTS, **measured):
    """Writes ``measured`` to ``name``.json in ``folder``, with command, date and machine."""
    whole = {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "python": platform.python_version(),
        **measured,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(whole, indent=2) + "\n")


def as_typed(script, words, names):
    """The command ``script words``, with ``names`` in place of the paths of this machine."""
    parts = [[names.get(part, part) for part in word.split("=", 1)] for word in words]
    return " ".join([f"python benchmarks/{script}", *map("=".join, parts)])
