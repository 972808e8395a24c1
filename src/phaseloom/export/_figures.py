"""Figures of a result as files."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator

from phaseloom import plot
from phaseloom.errors import BadInput, nearest
from phaseloom.files import make_folder
from phaseloom.result import Result

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

__all__ = ["FIGURES", "figures"]

FIGURES: Mapping[str, "Callable[[Result], Figure]"] = {
    "report": plot.report,
    "phase": plot.object_phase,
    "amplitude": plot.object_amplitude,
    "sigma": plot.object_sigma,
    "slices": plot.slices,
    "states": plot.object_modes,
    "probe": plot.probe_modes,
    "positions": plot.positions,
    "tilts": plot.tilts,
    "refined": plot.refined_parameters,
    "losses": plot.losses,
    "forward": plot.forward,
}
"""Figures by the names that a parameter file has for them."""


def _check_name(name: object) -> str:
    if name not in FIGURES:
        raise BadInput("export.figures: of", name, f"is not a figure: {nearest(str(name), FIGURES)}")
    return str(name)


FigureName = Annotated[str, BeforeValidator(_check_name)]


def figures(
    result: Result,
    folder: str | os.PathLike[str],
    /,
    *,
    of: tuple[FigureName, ...] = ("slices", "probe"),
    format: Literal["png", "pdf", "svg"] = "png",
    dpi: float = 130.0,
) -> tuple[Path, ...]:
    """Draw figures into a folder, each named for what it shows, as ``slices.png``.

    Args:
        result: a run, finished or not.
        folder: created where it does not exist.
        of: any of ``report`` (one page of all), ``phase``, ``amplitude``, ``sigma`` (standard deviation of
            the phase), ``slices`` (with sections along the beam), ``states`` (of the object),
            ``probe`` (modes and the beam along its axis), ``positions``, ``tilts``, ``refined``
            (thickness, tilt and more over the epochs), ``losses``, ``forward`` (modelled patterns
            against measured ones).
        format: of the files.
        dpi: dots per inch: a page is some 15 inches wide.

    Returns:
        The files.

    Raises:
        BadInput: an unknown figure, or a resolution that is not above 0.

    Example:
        >>> from phaseloom.spec import call
        >>> call("phaseloom.export", {"figures": {"of": ["slices", "probe"]}}, "outputs").values
        {'of': ('slices', 'probe')}
    """
    chosen = [FIGURES[_check_name(name)] for name in of]
    if not dpi > 0:
        raise BadInput("export.figures: dpi", dpi, "must be above 0, such as 130")
    folder = make_folder(folder)
    paths = tuple(folder / f"{name}.{format}" for name in of)
    for draw, path in zip(chosen, paths, strict=True):
        plot.save(draw(result), path, dpi)
    return paths
