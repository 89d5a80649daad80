"""What a command shows while it works, and its figures as a table."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
"""Everything but results goes here, so that stdout can be piped."""


def say(sentence: str) -> None:
    """Tell the user something that is not a result."""
    errors.print(sentence)


def show_json(result: Mapping[str, Any]) -> None:
    """Print a result as one JSON object on stdout."""
    json.dump(result, sys.stdout, allow_nan=False)
    sys.stdout.write("\n")


@contextmanager
def progress_of(work: str) -> Iterator[Callable[..., None]]:
    """Show a bar with what is done, its rate and what time is left; plain lines off a terminal.

    Gives a function to be told the part done, 0 to 1, and a few words.
    """
    if errors.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        with Progress(*columns, console=errors) as progress:
            task = progress.add_task(work, total=1.0, text="")
            yield lambda done, text="": progress.update(task, completed=done, text=text)
        return
    began = last = time.monotonic()

    def line(done: float, text: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 10:
            last = now
            left = (now - began) * (1 / done - 1) if done > 0 else 0.0
            say(f"{work}: {done:.0%}, about {left:.0f} s left. {text}")

    yield line
    say(f"{work}: done in {time.monotonic() - began:.1f} s.")


def summary_table(summary: Mapping[str, Any]) -> Table:
    """Lay out the figures of an evaluation, a method a row."""
    title = f"Against the {_REFERENCES[summary['reference']]}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("image", no_wrap=True)
    headings = ("FWHM, nm", "PSNR, dB", "SSIM", "F1", "missed", "invented", "pairs")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for method, psnr in summary["psnr_db"].items():
        fwhm, spots = summary["fwhm_nm"][method], summary["spots"][method]
        table.add_row(
            _TITLES.get(method, method),
            f"{_number(fwhm['median'], '.1f')} ± {_number(fwhm['sd'], '.1f')}",
            _number(psnr["median"], ".2f"),
            _number(summary["ssim"][method]["median"], ".4f"),
            _number(spots["f1"], ".3f"),
            _number(spots["missed"], ".1%"),
            _number(spots["invented"], ".2%"),
            _number(summary["resolved_nm"][method], ".0f nm"),
        )
    return table


def trust_line(report: Mapping[str, Any]) -> str:
    """Tell in one line how far the outputs can be believed, and what the model claims."""
    trust = report["summary"]["trust"]
    if trust is None:
        return f"trust: not judged, {report['summary']['trust_reason']}"
    counts = ", ".join(f"{n} {verdict}" for verdict, n in trust["verdicts"].items() if n)
    line = f"trust: {counts} of {trust['fields']} field{'s' if trust['fields'] != 1 else ''}"
    claim = (report["certificate"] or {}).get("claim")
    if claim is None:
        return line
    nm = claim["claimed_resolution_nm"]
    claimed = "no resolution can be claimed"
    if nm is not None:
        claimed = f"two points are told apart from {nm:.0f} nm on"
    return f"{line}; {claimed}"


_REFERENCES = {"truth": "noise-free truth", "target": "target"}
_TITLES = {"lucy_richardson": "Lucy-Richardson"}


def _number(value: float | None, form: str) -> str:
    if value is None:
        return "-"
    if form.endswith(" nm"):
        return f"{value:{form.removesuffix(' nm')}} nm"
    return f"{value:{form}}"
