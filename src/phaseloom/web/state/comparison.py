"""Runs side by side: settings that differ, and the phase along a line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phaseloom.reconstruction.compare import ResultComparison, compare_results, list_differences
from phaseloom.result import Result
from phaseloom.web.state.catalogue import read_recipe
from phaseloom.web.state.forms import get_value
from phaseloom.web.state.run_images import Field

__all__ = ["compare_runs", "sample_line", "tabulate_settings"]


def compare_runs(first: Path, second: Path, /) -> ResultComparison:
    """Compare the results of two runs.

    Raises:
        BadInput: one has no result yet, or they cannot be laid on each other.
    """
    return compare_results(Result.load(first / "result.h5"), Result.load(second / "result.h5"))


def tabulate_settings(folders: Sequence[Path], /) -> list[dict[str, str]]:
    """A row for each setting by which a run differs from the first, with the value of each by its number."""
    recipes = {folder: read_recipe(folder) for folder in folders}
    paths: dict[str, None] = {}
    for folder in folders[1:]:
        paths |= dict.fromkeys(p for p, _, _ in list_differences(recipes[folders[0]], recipes[folder]))
    return [
        {"setting": path}
        | {str(number): _show(recipes[folder], path) for number, folder in enumerate(folders)}
        for path in paths
    ]


def _show(recipe: Mapping[str, Any], path: str) -> str:
    value = get_value(recipe, *path.split("."))
    if path == "steered" and isinstance(value, list):
        return "; ".join(_describe_command(one) for one in value if isinstance(one, Mapping))
    return "" if value is None else str(value)


def _describe_command(one: Mapping[str, Any]) -> str:
    """A command that a run has followed.

    Example:
        >>> _describe_command({"epoch": 3, "command": "set", "settings": {"rates.object": 0.1}})
        'after epoch 3: set rates.object = 0.1'
    """
    values = ", ".join(f"{path} = {value}" for path, value in dict(one.get("settings") or {}).items())
    back = f"to {one['to']}" if one.get("to") is not None else ""
    return " ".join(filter(None, [f"after epoch {one.get('epoch')}: {one.get('command')}", values, back]))


def sample_line(
    field: Field, start: tuple[float, float], end: tuple[float, float], /, *, count: int = 400
) -> tuple[np.ndarray, np.ndarray]:
    """Lengths along a line (angstrom) and the values there, interpolated linearly; NaN off the field.

    Args:
        field: an image in the frame of the scan.
        start: place (y, x), angstrom.
        end: as ``start``.
        count: of samples.

    Example:
        >>> field = Field(np.arange(16.0).reshape(4, 4), (1.0, 1.0), (-0.5, -0.5))
        >>> sample_line(field, (0.0, 0.0), (0.0, 3.0), count=4)[1].tolist()
        [0.0, 1.0, 2.0, 3.0]
    """
    from scipy.ndimage import map_coordinates

    share = np.linspace(0, 1, count)
    places = np.array(start) + share[:, None] * (np.array(end) - np.array(start))
    index = (places - np.array(field.corner)) / np.array(field.pixel) - 0.5
    values = map_coordinates(np.asarray(field.values, float), index.T, order=1, cval=np.nan)
    return share * float(np.hypot(*(np.array(end) - np.array(start)))), values
