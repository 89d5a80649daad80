"""results/quality/*.json -> the tables of docs/trust.md, between its marks.

python benchmarks/quality/trust_page.py
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fields import RESULTS
from page_tables import fill_page, table

PAGE = Path(__file__).parents[2] / "docs" / "trust.md"
Figures = Mapping[str, Any]


def main() -> None:
    """Write every table of which there are results."""
    makers = {"domain": gate, "injections": injections, "cost": cost}
    found = {name: RESULTS / f"{name}.json" for name in makers}
    fill_page(
        PAGE,
        {name: makers[name](_figures(path)) for name, path in found.items() if path.exists()},
    )


def _figures(path: Path) -> Figures:
    found: Figures = json.loads(path.read_text())
    return found["sides"] if "sides" in found else found["models"]


def gate(models: Figures) -> list[str]:
    """Return what each model refuses, and how surely it tells that from its own kind."""
    kinds = list(dict.fromkeys(kind for each in models.values() for kind in each))
    rows = [
        [
            name,
            *(
                f"{each[k]['refused']:.0%}, {each[k]['auroc']:.3f}" if k in each else None
                for k in kinds
            ),
        ]
        for name, each in models.items()
    ]
    return table(["refused, AUROC", *kinds], rows)


def _refusal(figures: Figures | None) -> str | None:
    return None if figures is None else f"{figures['refused']:.0%}, {figures['auroc']:.3f}"


def injections(models: Figures) -> list[str]:
    """Return how surely each change of an output is found."""
    kinds = list(next(iter(next(iter(models.values())).values())))
    rows = [
        [f"{name}: {method}", *(_score(figures[kind]) for kind in kinds)]
        for name, methods in models.items()
        for method, figures in methods.items()
    ]
    return table(["AUROC (recall at 5 % false alarms)", *kinds], rows)


def cost(sides: Figures) -> list[str]:
    """Return what the fast check takes beside the prediction."""
    rows = [
        [
            side,
            f"{each['predict_cpu_s']:.2f}",
            f"{each['check_cpu_s']:.2f}",
            f"{each['share_cpu']:.0%}",
            f"{each['share_wall']:.0%}",
        ]
        for side, each in sides.items()
    ]
    head = ["image", "prediction, processor s", "check", "share", "share of the seconds"]
    return table(head, rows)


def _score(figures: Figures) -> str | None:
    if figures["auroc"] is None:
        return None
    return f"{figures['auroc']:.3f} ({figures['recall_at_5_percent']:.0%})"


if __name__ == "__main__":
    main()
