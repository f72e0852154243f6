"""A PostgreSQL server of its own for a test, reached by a socket in its folder."""

import contextlib
import glob
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest


def binaries():
    """The folder of initdb and pg_ctl, or a skip: Debian leaves it off the path."""
    found = shutil.which("initdb") or max(glob.glob("/usr/lib/postgresql/*/bin/initdb"), default="")
    if not found:
        pytest.skip("PostgreSQL: initdb neither on the path nor in /usr/lib/postgresql/*/bin")
    return Path(found).resolve().parent


@contextlib.contextmanager
def server():
    """While this lasts: the SQLAlchemy URL of an empty database, and what stops its server."""
    pytest.importorskip("psycopg", reason="PostgreSQL: the driver psycopg is missing")
    programs = binaries()
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # short: the path of a socket is
    user = "nobody" if os.geteuid() == 0 else None  # the server refuses root
    if user:
        shutil.chown(folder, user)

    def run(program, *arguments):
        command = [f"{programs / program}", "-D", f"{folder / 'data'}", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, user=user, cwd=folder)

    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        run("initdb", "-A", "trust", "-U", "postgres", "--no-sync")
        options = f"-k {folder} -c listen_addresses='' -c fsync=off"
        run("pg_ctl", "-w", "-l", f"{folder / 'log'}", "-o", options, "start")
        stopping = stack.enter_context(contextlib.ExitStack())
        stopping.callback(run, "pg_ctl", "-m", "immediate", "stop")
        yield f"postgresql+psycopg://postgres@/postgres?host={folder}", stopping.close
