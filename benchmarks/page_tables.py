"""Tables -> a page of docs/, between its marks."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a table; None is a dash."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join("-" if x is None else str(x) for x in line) + " |" for line in lines]


def fill_page(page: Path, tables: Mapping[str, Sequence[str]]) -> None:
    """Put each table between the marks of its name."""
    text = page.read_text()
    for name, rows in tables.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        text = before + "\n".join([begin, "", *rows, "", end]) + rest.partition(end)[2]
    page.write_text(text)
