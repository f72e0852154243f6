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
