"""Two folders -> raw pairs: which image of the source belongs to which of the target."""

from dataclasses import dataclass

from crosscope.data.images import Image


@dataclass(frozen=True, eq=False)
class RawPair:
    """The same field through two microscopes, each on its own grid.

    Attributes
    ----------
    name : str
        The pair's name: the source file's, without its suffixes.
    source, target : Image
        Both with axes "yx" and a pixel size.
    matched_by : str
        How the two were matched: "name", "order" or "given".
    """

    name: str
    source: Image
    target: Image
    matched_by: str = "given"
