"""A value out of a file -> the number that it must be, of its type and within its limits.

JSON holds anything where a number should be: nothing, words, NaN, integers beyond every float. A
number that sizes a kernel or an array has limits, or a file of a few bytes takes all the memory.
"""

from typing import Any

LARGEST = 1e12
"""What no number of ours reaches, where nothing narrower is known."""
GREY = 1e10
"""Beyond every detector's grey value, of 32 bits too."""
ZOOM = 0.1, 20.0
"""Pixels of the target per pixel of the source."""


def read_number(value: Any, least: float = -LARGEST, most: float = LARGEST) -> float:
    """Return a number within limits; raise TypeError or ValueError where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r:.50} is not a number")
    if not least <= value <= most:  # compared exactly, however large; NaN is not within
        raise ValueError(f"{value!r:.50} is not a number from {least:g} to {most:g}")
    return float(value)


def read_count(value: Any, least: int = 0, most: int = 10**12) -> int:
    """Return a whole number within limits; raise TypeError or ValueError where it is none."""
    if type(value) is not int:
        raise TypeError(f"{value!r:.50} is not a whole number")
    if not least <= value <= most:
        raise ValueError(f"{value!r:.50} is not a whole number from {least} to {most}")
    return value
