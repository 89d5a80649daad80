"""How many processors this process may use, and of what kind."""

import os
import platform
from pathlib import Path


def count_cores() -> int:
    """Return the number of cores that the process may run on, at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def name_processor() -> str:
    """Return what the system calls its processor: two machines of one name are as fast."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
