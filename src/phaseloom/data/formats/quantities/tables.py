"""Tables of positions as text: with or without a header, comments and a row of units, in any separator."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from phaseloom.data.formats.arrays import load_npy
from phaseloom.data.formats.files import require_file
from phaseloom.data.formats.quantities.unit_names import normalise
from phaseloom.errors import BadInput, nearest

__all__ = ["TABLE_SUFFIXES", "Table", "parse_table", "read_positions_table", "read_table"]

log = logging.getLogger(__name__)

TABLE_SUFFIXES = (".npy", ".csv", ".txt", ".dat", ".tsv", ".pos")
"""Endings of files that hold a table; other names are arrays of the file of the patterns."""

MAX_BYTES = 500_000_000

ROW_NAMES = (
    "row",
    "rows",
    "y",
    "pos_y",
    "posy",
    "y_pos",
    "py",
    "samy",
    "slow",
    "position_y",
    "probe_position_y",
)
COLUMN_NAMES = ("column", "columns", "col", "x", "pos_x", "posx", "x_pos", "px", "samx", "fast", "position_x")
COLUMN_NAMES += ("probe_position_x",)

UNIT_OF_NAME = {
    "a": "A",
    "nm": "nm",
    "um": "um",
    "mm": "mm",
    "m": "m",
    "px": "px",
    "pixel": "px",
    "pixels": "px",
}


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of numbers.

    Attributes:
        values: ``(rows, columns)``.
        names: of the columns, empty where there is no header.
        units: of the columns, empty where none are stated.
    """

    values: np.ndarray
    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()


def parse_table(text: str, place: str, /) -> Table:
    r"""A table of numbers, whose columns are separated by commas, semicolons, tabs or blanks.

    Lines that begin with ``#``, ``%``, ``!`` or ``//`` are comments. The last line of words before the
    numbers (or the last comment with as many words as there are columns) names the columns, and a line of
    units may follow; a name may have its unit behind it, ``x (um)``.

    Raises:
        BadInput: a row that is no row of numbers, with its line.

    Example:
        >>> parse_table("# scan 7\nx (um)\ty (um)\n1\t2.5\n", "a.txt")
        Table(values=array([[1. , 2.5]]), names=('x', 'y'), units=('um', 'um'))
    """
    if ";" in text and "." not in text and re.search(r"\d,\d", text):  # of a spreadsheet
        text = text.replace(",", ".")
    rows: list[list[float]] = []
    words: list[list[str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        content, comment = _strip_comment(line)
        if comment and not content and not rows:
            words.append(_split(comment))
        if not content:
            continue
        cells = _split(content)
        numbers = _parse_numbers(cells)
        if numbers is None and not rows:
            words.append(cells)
        elif numbers is None or (rows and len(numbers) != len(rows[0])):
            expected = f"{len(rows[0])} numbers" if rows else "numbers"
            fix = f"is not a row of {expected}: write one row for each pattern, such as '1.5, 2.0'"
            raise BadInput(f"{place}: line {number}", content[:60], fix)
        else:
            rows.append(numbers)
    if not rows:
        raise BadInput(place, None, "is not a table of numbers: write two columns, row and column")
    values = np.array(rows, np.float64)
    names, units = _read_titles([line for line in words if len(line) == values.shape[1]])
    return Table(values, names, units)


def _strip_comment(line: str) -> tuple[str, str]:
    """The part of a line before a comment, and the comment."""
    found = re.search(r"#|%|//|^\s*!", line)
    if found is None:
        return line.strip(), ""
    return line[: found.start()].strip(), line[found.end() :].strip(" #%!/\t")


def _split(line: str) -> list[str]:
    """Cells of a line; a unit in brackets stays with its name."""
    for separator in (",", ";", "\t"):
        if separator in line:
            cells = [cell.strip().strip("\"'") for cell in line.split(separator)]
            return cells[:-1] if cells and not cells[-1] else cells
    return re.sub(r"\s+(?=[(\[])", "", line).split()


def _parse_numbers(cells: Sequence[str]) -> list[float] | None:
    try:
        return [float(cell) for cell in cells]
    except ValueError:
        return None


def _read_titles(lines: list[list[str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and units of the columns, of the lines of words that have as many cells."""
    units: tuple[str, ...] = ()
    if lines and all(_unit_of(cell) for cell in lines[-1]):
        units = tuple(_unit_of(cell) for cell in lines[-1])
        lines = lines[:-1] if len(lines) > 1 else lines
    if not lines:
        return (), units
    found = [re.fullmatch(r"(.*?)\s*[(\[]\s*(\S+?)\s*[)\]]|(.*)", cell) for cell in lines[-1]]
    names = tuple((one[1] or one[3] or "").strip() if one else "" for one in found)
    own = tuple(_unit_of(one[2] or "") if one else "" for one in found)
    own = tuple(unit or _unit_of(name.rpartition("_")[2]) for unit, name in zip(own, names, strict=True))
    return names, units or (own if any(own) else ())


def _unit_of(cell: str) -> str:
    """A unit of length as `Setup` spells it, or an empty text."""
    return UNIT_OF_NAME.get(normalise(cell), "")


def read_table(path: Path, /) -> np.ndarray:
    """All numbers of an ``.npy``, ``.csv``, ``.txt`` or other text file.

    Raises:
        BadInput: no file, or no table of numbers.
    """
    path = require_file(path)
    return load_npy(path) if path.suffix == ".npy" else _load_text(path).values


def _load_text(path: Path) -> Table:
    if path.stat().st_size > MAX_BYTES:
        fix = "is not a table of positions: it is too large"
        raise BadInput(path.name, f"{path.stat().st_size} bytes", fix)
    content = path.read_bytes()
    if b"\0" in content[:4096]:
        raise BadInput(path.name, None, "is not text: write a table of numbers, or name an .npy file")
    return parse_table(content.decode("utf-8-sig", "replace"), path.name)


def read_positions_table(
    path: Path, columns: tuple[int | str, int | str] | None = None, /
) -> tuple[np.ndarray, str]:
    r"""Positions ``(n, 2)`` (row, column) of a file, and their unit (``A`` where none is stated).

    Args:
        path: an ``.npy`` file, or text as `parse_table` reads it.
        columns: names or numbers (from 0) of the columns; default: those with names such as y and x, else
            the only two.

    Raises:
        BadInput: columns that are not there, or none named of several.

    Example:
        >>> _ = Path("places.csv").write_text("no,x (um),y (um)\n1,0.5,2\n2,1.5,2\n")
        >>> read_positions_table(Path("places.csv"))[0].tolist()
        [[2.0, 0.5], [2.0, 1.5]]
    """
    path = require_file(path)
    table = Table(load_npy(path)) if path.suffix == ".npy" else _load_text(path)
    if path.suffix == ".npy" and columns is None:
        return table.values, "A"
    if table.values.ndim != 2:
        raise BadInput(path.name, f"shape {table.values.shape}", "must be a table: rows of numbers")
    pair = _find_columns(table) if columns is None else [_find_column(table, c, path.name) for c in columns]
    if pair is None:
        named = f" ({', '.join(table.names)})" if table.names else ""
        fix = f"columns{named}: name the two of row and column with columns, such as columns: [1, 0]"
        raise BadInput(path.name, f"has {table.values.shape[1]}", fix)
    units = {table.units[number] for number in pair if table.units} - {""}
    if len(units) > 1:
        fix = f"and {' and '.join(sorted(units))} differ: write both columns in one unit"
        raise BadInput(path.name, "units of positions", fix)
    rows, cols = (table.values[:, number].astype(np.float64) for number in pair)
    return np.column_stack([rows, cols]), next(iter(units), "A")


def _find_columns(table: Table) -> list[int] | None:
    names = [name.lower().partition("_um")[0].partition("_nm")[0].removesuffix("_m") for name in table.names]
    rows = [number for number, name in enumerate(names) if name in ROW_NAMES]
    cols = [number for number, name in enumerate(names) if name in COLUMN_NAMES]
    if len(rows) == 1 and len(cols) == 1:
        return [rows[0], cols[0]]
    return [0, 1] if table.values.shape[1] == 2 else None


def _find_column(table: Table, wanted: int | str, place: str) -> int:
    count = table.values.shape[1]
    text = str(wanted).strip()
    if text in table.names:
        return table.names.index(text)
    if text.lstrip("-").isdigit() and -count <= int(text) < count:
        return int(text) % count
    fix = nearest(text, list(table.names)) if table.names else f"write numbers from 0 to {count - 1}"
    raise BadInput(f"{place}: columns", wanted, f"is not a column: {fix}")
