"""Images of a field -> one picture: side by side, one scale bar, one contrast for one modality."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from crosscope.data.files import writing
from crosscope.prediction.composite import bar_length, show_range

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle

ZOOM = 6  # the lower row shows a sixth of the field ...
LEAST_ZOOM_PX = 48  # ... but no less than this


_TITLES = {"lucy_richardson": "Lucy-Richardson"}


@dataclass(frozen=True, eq=False)
class Panel:
    """A field: images by their titles, all on one grid."""

    name: str
    images: Mapping[str, Float[np.ndarray, "y x"]]
    pixel_size_nm: float

    @property
    def shape(self) -> tuple[int, int]:
        """Of the images: y, x."""
        height, width = next(iter(self.images.values())).shape
        return height, width


def draw_fields(panels: Sequence[Panel], path: Path, *, overwrite: bool = False) -> None:
    """Draw each field whole and, below, magnified around its densest spot, to a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second: when it is needed
    from matplotlib.figure import Figure

    columns = max(len(panel.images) for panel in panels)
    tall = [height / width for height, width in (panel.shape for panel in panels)]
    heights = [part for ratio in tall for part in (ratio, 1.0)]  # whole field, magnified square
    inches = 3.2
    size = (inches * columns, inches * sum(heights) + 0.4 * len(panels))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(
        2 * len(panels), columns, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for n, panel in enumerate(panels):
        top, left, side = _densest(panel)
        sharp_range = show_range(panel.images["target"]) if "target" in panel.images else None
        for m, (title, image) in enumerate(panel.images.items()):
            low, high = sharp_range if sharp_range and title == "output" else show_range(image)
            crop = image[top : top + side, left : left + side]
            for row, shown in ((2 * n, image), (2 * n + 1, crop)):
                axis = axes[row][m]
                axis.imshow(shown, cmap="inferno", vmin=low, vmax=high, interpolation="nearest")
                axis.set_axis_off()
                _draw_bar(axis, shown.shape, panel.pixel_size_nm)
            shown_title = _TITLES.get(title, title)
            axes[2 * n][m].set_title(f"{shown_title}, {panel.name}" if m == 0 else shown_title)
            height, width = (side / length for length in image.shape)
            box = (left / image.shape[1], 1 - top / image.shape[0] - height)
            axes[2 * n][m].add_patch(_frame(axes[2 * n][m], box, width, height))
    FigureCanvasAgg(figure)
    with writing(path, overwrite=overwrite) as part:
        figure.savefig(part, dpi=110, format="png")


def _densest(panel: Panel) -> tuple[int, int, int]:
    """Return top, left and side of the square to be magnified."""
    image = panel.images.get("target", next(iter(panel.images.values())))
    side = min(max(LEAST_ZOOM_PX, min(image.shape) // ZOOM), *image.shape)
    return (*densest(image, (side, side)), side)


def densest(image: Float[np.ndarray, "y x"], shape: tuple[int, int]) -> tuple[int, int]:
    """Return top and left of the part, so large, that holds most light above the background."""
    low, high = show_range(image)
    light = np.clip((image - low) / (high - low), 0, 1) > 0.25
    total = np.pad(np.cumsum(np.cumsum(light, axis=0), axis=1), ((1, 0), (1, 0)))
    y, x = shape
    sums = total[y:, x:] - total[:-y, x:] - total[y:, :-x] + total[:-y, :-x]
    top, left = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(top), int(left)


def _draw_bar(axis: "Axes", shape: tuple[int, ...], pixel_size_nm: float) -> None:
    """Draw the scale bar into the lower right corner."""
    share, label = bar_length(shape[1] * pixel_size_nm)
    axis.plot(
        [0.95 - share, 0.95], [0.05, 0.05], color="white", linewidth=3, transform=axis.transAxes
    )
    axis.text(
        0.95 - share / 2,
        0.07,
        label,
        color="white",
        ha="center",
        va="bottom",
        fontsize=9,
        transform=axis.transAxes,
    )


def _frame(axis: "Axes", corner: tuple[float, float], width: float, height: float) -> "Rectangle":
    from matplotlib.patches import Rectangle

    return Rectangle(
        corner, width, height, fill=False, edgecolor="white", linewidth=1, transform=axis.transAxes
    )
