"""How many processors this process may use."""

import os


def count_cores() -> int:
    """Return the number of cores that the process may run on, at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(affinity(0)) if affinity else os.cpu_count() or 1
