"""How fast a run goes: how many steps to take at once, and how many it took in a second."""

from __future__ import annotations

LONGEST_CHUNK = 1000
"""Steps: what one call of the compiled loop is given the batches of."""

CHUNK_SECONDS = 1.0
"""How long a call of the compiled loop is to take: a stop waits for its end."""


class Pace:
    """The speed of the calls so far."""

    def __init__(self) -> None:
        self._wanted = 1.0
        self._steps = 0
        self._seconds = 0.0

    @property
    def chunk_steps(self) -> int:
        """Steps that take about `CHUNK_SECONDS`, found by doubling; at least one."""
        return int(self._wanted)

    def add(self, steps: int, seconds: float) -> None:
        """Says how long a call took."""
        self._steps += steps
        self._seconds += seconds
        self._wanted = max(self._wanted * min(2.0, CHUNK_SECONDS / seconds), 1.0)

    def take_speed(self) -> float:
        """Steps per second since it was taken before."""
        speed = self._steps / self._seconds
        self._steps, self._seconds = 0, 0.0
        return speed
