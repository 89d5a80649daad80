"""results/quality/*.json, and the shipped models -> the tables of docs/trust.md, between its marks.

python benchmarks/quality/trust_page.py

What falls short of what was asked is set in bold.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fields import RESULTS, VIEWS
from page_tables import fill_page, table

import crosscope as cs

PAGE = Path(__file__).parents[2] / "docs" / "trust.md"
Figures = Mapping[str, Any]
MOST_REFUSED, LEAST_APART, LEAST_APART_OF_KINDS = 0.05, 0.95, 0.99
FOUND = {"added": 0.95, "deleted": 0.95, "moved": 0.90, "brighter": 0.70}
FOUND_BY_ALL = {"split": 0.80, "merged": 0.80}
LEAST_RECALL, SHAM_ERRORS = 0.90, 3.0  # of what is added or deleted; standard errors
COVERED, LEAST_COVERED, MOST_BROKEN, MOST_OFF, LEAST_RANKED = (0.88, 0.94), 0.80, 0.14, 0.05, 0.5
MOST_FALSE, SLOPE_OFF, LEAST_R2 = 1, 0.05, 0.99
MOST_COST = 0.25


def main() -> None:
    """Write every table of which there are results."""
    makers = {
        "domain": gate,
        "domain_real": gate_of_real,
        "injections": injections,
        "quantities": quantities,
        "intervals": intervals,
        "cost": cost,
        "seeds": seeds,
    }
    found = {name: RESULTS / f"{name}.json" for name in makers}
    fill_page(
        PAGE,
        {name: makers[name](_figures(path)) for name, path in found.items() if path.exists()}
        | {"certificates": certificates()},
    )


def _figures(path: Path) -> Figures:
    found: Figures = json.loads(path.read_text())
    return found["processors"] if "processors" in found else found["models"]


def gate(models: Figures) -> list[str]:
    """Return what each model refuses, and how surely it tells that from its own kind."""
    kinds = list(dict.fromkeys(kind for each in models.values() for kind in each))
    rows = [
        [
            name,
            *(_refusal(kind, each.get(kind)) for kind in kinds),
        ]
        for name, each in models.items()
    ]
    return table(["refused, AUROC", *kinds], rows)


def _refusal(kind: str, figures: Figures | None) -> str | None:
    if figures is None:
        return None
    refused, apart = figures["refused"], figures["auroc"]
    samples = {view.sample for view in VIEWS.values()}
    least = LEAST_APART_OF_KINDS if kind in samples else LEAST_APART
    own = kind == "held out" or kind.startswith("time-lapse")
    holds = refused <= MOST_REFUSED if own else apart >= least
    return _bold_unless(holds, f"{refused:.0%}, {apart:.3f}")


def _bold_unless(holds: bool, text: str) -> str:
    return text if holds else f"**{text}**"


def gate_of_real(models: Figures) -> list[str]:
    """Return what models of one half of a real pair make of its other half and of other images."""
    rows = [
        [
            name,
            f"{judged['same field']['domain']}, {judged['same field']['distance']:.2f}",
            sum(each["domain"] == "outside" for each in _others(judged).values()),
            ", ".join(
                f"**{name} ({each['domain']})**"
                for name, each in _others(judged).items()
                if each["domain"] != "outside"
            )
            or "none",
        ]
        for name, judged in models.items()
    ]
    return table(["learnt on", "the other half", "other sets refused", "not refused"], rows)


def _others(judged: Figures) -> Figures:
    return {name: each for name, each in judged.items() if name != "same field"}


def quantities(models: Figures) -> list[str]:
    """Return claims, false objects and slopes, the worst over the seeds."""
    rows = []
    for name, each in models.items():
        claimed, light = each.get("resolution_nm"), each.get("t6")
        rows.append(
            [
                name,
                claimed and f"{max(claimed['true']):.0f}",
                _bold_unless(each["t7"]["most"] <= MOST_FALSE, str(each["t7"]["most"])),
                f"{each['t7']['no_signal_share']:.0%}",
                light
                and _bold_unless(
                    max(abs(slope - 1) for slope in light["slope"]) <= SLOPE_OFF,
                    f"{min(light['slope']):.3f} to {max(light['slope']):.3f}",
                ),
                light and _bold_unless(min(light["r2"]) >= LEAST_R2, f"{min(light['r2']):.4f}"),
            ]
        )
    head = ["", "true microscope, nm", "false objects, at most", 'told as "no signal"']
    return table([*head, "slope of the light", "R2"], rows)


def certificates() -> list[str]:
    """Return what the models that come with the program claim of themselves."""
    rows = []
    for name in VIEWS:
        certificate = cs.Model.load(name).certificate
        claim, light = certificate["claim"], certificate["quantities"]
        told = None if claim["resolution_nm"] is None else f"{claim['resolution_nm']:.0f}"
        slope = f"{light['slope']:.3f}"
        rows.append([name, told, claim["reason"], claim["most_false_objects"], slope])
    head = ["", "claimed, nm", "why not", "false objects, at most", "slope of the light"]
    return table(head, rows)


def intervals(models: Figures) -> list[str]:
    """Return what intervals cover."""
    rows = [
        [
            name,
            _bold_unless(COVERED[0] <= each["coverage"] <= COVERED[1], f"{each['coverage']:.1%}"),
            _least(min(each["coverage_by_width_quartile"]), LEAST_COVERED, ".1%"),
            f"{each['coverage_in_structure']:.1%}",
            _most(each["calibration_error"], MOST_OFF, ".3f"),
            _most(max(draw["violations"] for draw in each["draws"].values()), MOST_BROKEN, ".1%"),
            _least(each["spearman"]["pixels"], LEAST_RANKED, ".2f"),
            f"{each['spearman']['pixels, ceiling']:.2f}",
        ]
        for name, each in models.items()
    ]
    head = ["", "covered", "worst quartile of widths", "in structures", "calibration error"]
    return table([*head, "promise broken, draws", "rank correlation", "its ceiling"], rows)


def _least(figure: float, asked: float, form: str) -> str:
    return _bold_unless(figure >= asked, f"{figure:{form}}")


def _most(figure: float, asked: float, form: str) -> str:
    return _bold_unless(figure <= asked, f"{figure:{form}}")


def injections(models: Figures) -> list[str]:
    """Return how surely each change of an output is found, by its rank and by the map's limit.

    Of structures that are no spots there is no split or merged one; nor are they shown by a blur
    that is known to a tenth only, which the JSON has.
    """
    kinds = list(dict.fromkeys(k for each in models.values() for of in each.values() for k in of))
    named = {
        f"{name}: {method}": figures
        for name, methods in models.items()
        for method, figures in methods.items()
        if "split" in figures or "PSF" not in method
    }
    ranked = [
        [name, *(_score(name, kind, each[kind]) if kind in each else None for kind in kinds)]
        for name, each in named.items()
    ]
    limited = [
        [
            name,
            _percent(each["sham"]["alarms_at_limit"]),
            *(
                _percent(each[kind].get("recall_at_limit")) if kind in each else None
                for kind in kinds
                if kind != "sham"
            ),
        ]
        for name, each in named.items()
        if not name.endswith("SQUIRREL")  # whose map is in grey values
    ]
    found = [kind for kind in kinds if kind != "sham"]
    return [
        *table(["AUROC (recall at 5 % false alarms)", *kinds], ranked),
        "",
        *table(["beyond 5 standard deviations", "unchanged", *found], limited),
    ]


def seeds(models: Figures) -> list[str]:
    """Return what one of two trainings alone shows, and which part of that is flagged by what."""
    alone = [
        [
            name,
            each["both"]["objects"],
            *(
                f"{each[side]['only']} ({each[side]['only_share']:.2%})"
                for side in ("in_a", "in_b")
            ),
            _percent(each["both"]["only_true"]),
            *(
                f"{_middle(each['both'][f'only_{what}'])} ({_middle(each['both'][what])})"
                for what in ("neighbour", "height")
            ),
            each["in_a"]["not_true"],
        ]
        for name, each in models.items()
    ]
    flagged = [
        [
            f"{name}: {what}",
            _percent(shares["only"]),
            _percent(each["in_b"]["flagged"].get(what, {}).get("only")),
            *(_percent(shares[of]) for of in ("not_true", "both_and_true")),
        ]
        for name, each in models.items()
        for what, shares in each["in_a"]["flagged"].items()
    ]
    nearest, height = "nearest other, widths (of all)", "height, thresholds (of all)"
    head = ["", "objects, A and B", "in A only", "in B only"]
    what, alarms = "A's that the truth lacks", "A's in both and true"
    return [
        *table([*head, "true", nearest, height, what], alone),
        "",
        *table(["flagged by", "in A only", "in B only", what, alarms], flagged),
    ]


def _middle(quartiles: list[float] | None) -> str:
    return "-" if quartiles is None else f"{quartiles[1]:.2g}"


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.1%}"


def cost(processors: Figures) -> list[str]:
    """Return what checking takes beside the prediction, and the largest memory."""
    rows = [
        [
            processor,
            side,
            *(_told(each.get(name), ".2f") for name in ("predict_cpu_s", "check_cpu_s")),
            *(
                each.get(name) and _most(each[name], MOST_COST, ".0%")
                for name in ("share_cpu", "share_wall")
            ),
            _told(each.get("check_full_cpu_s"), ".2f"),
            *(_told(each.get(name), ".0%") for name in ("share_full_cpu", "share_full_wall")),
            *(_told(each.get("peak_mib", {}).get(way), ".0f") for way in ("without", "with")),
        ]
        for processor, measured in processors.items()
        for side, each in measured["sides"].items()
    ]
    head = [
        "processor",
        "image",
        "prediction, processor s",
        "check",
        "share",
        "share of the seconds",
        "full check",
        "share",
        "share of the seconds",
        "memory without, MiB",
        "memory with, MiB",
    ]
    return table(head, rows)


def _told(figure: float | None, form: str) -> str | None:
    return None if figure is None else f"{figure:{form}}"


def _score(name: str, kind: str, figures: Figures) -> str | None:
    """Return how well a change is found; SQUIRREL is there to compare with, and has no bar."""
    ranked = figures["auroc"]
    if ranked is None:
        return None
    recall = figures["recall_at_5_percent"]
    asked = FOUND | (FOUND_BY_ALL if name.endswith("combined") else {})
    holds = ranked >= asked.get(kind, 0.0)
    if kind in ("added", "deleted"):
        holds = holds and recall >= LEAST_RECALL
    if kind == "sham":
        n, m = figures["n"], figures["without"]
        holds = abs(ranked - 0.5) <= SHAM_ERRORS * math.sqrt((n + m + 1) / (12 * n * m))
    return _bold_unless(holds or name.endswith("SQUIRREL"), f"{ranked:.3f} ({recall:.0%})")


if __name__ == "__main__":
    main()
