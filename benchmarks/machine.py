"""What machine a figure was taken on, written beside every result; and what work costs.

The standard library only: the Pythons of peers read this, too.
"""

import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any


def describe_machine() -> dict[str, Any]:
    """Return processor, cores, memory, system and the versions that matter."""
    cpu = Path("/proc/cpuinfo")
    models = [
        line.partition(":")[2].strip()
        for line in (cpu.read_text().splitlines() if cpu.exists() else [])
        if line.startswith("model name")
    ]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("crosscope", "torch", "numpy", "scipy")},
    }


def cpu_seconds() -> float:
    """Return what this process and its ended children have computed, in seconds."""
    return sum(os.times()[:4])


def peak_mib() -> float:
    """Return the largest memory that this process held, in MiB.

    `ru_maxrss` outlives exec: in a child it is at least what its parent held. VmHWM does not.
    """
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    unit = 2**20 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def measure_cost(work: Callable[[], object], *, megapixels: float, runs: int) -> dict[str, float]:
    """Do some work so often; return what its last run took, and the peak before all and after."""
    before = peak_mib()
    for _ in range(runs):
        cpu, wall = cpu_seconds(), time.perf_counter()
        work()
        cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    return {
        "cpu_s_per_mp": round(cpu / megapixels, 3),
        "wall_s_per_mp": round(wall / megapixels, 3),
        "loaded_mib": round(before, 1),
        "peak_mib": round(peak_mib(), 1),
    }
