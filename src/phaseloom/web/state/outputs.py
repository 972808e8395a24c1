"""What other commands left, as the page shows it: images of our files, restored images, latents."""

import math
from functools import cached_property
from glob import escape
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from phaseloom.data.known_files import KnownFile, identify
from phaseloom.data.signals import Signal, Signals
from phaseloom.documents import parse_json
from phaseloom.embedding.embeddings import ScanEmbedding
from phaseloom.embedding.latents import compute_mean_patterns, require_same_scan
from phaseloom.errors import BadInput
from phaseloom.export.files import is_exportable, load
from phaseloom.export.sources import to_signals
from phaseloom.metrics.spatial_mixture import fit_spatial_mixture
from phaseloom.plot.style import average_blocks, limits
from phaseloom.restoration.pairs.images import read_with_alpha
from phaseloom.web.paths import OutsideRoot, resolve_inside, show_inside
from phaseloom.web.state.run_images import Field
from phaseloom.web.state.scan_view import ScanView

__all__ = ["LatentView", "RestoredImages", "cut_plane", "find_output_kind", "list_signals"]
__all__ += ["to_colours"]

PHOTOGRAPHS = (".png", ".jpg", ".jpeg", ".bmp")
REPORT_NAME = "restored.json"
MAX_REPORT_BYTES = 4_000_000
MAX_SIDE = 1024


def find_output_kind(path: Path, /) -> str:
    """``images``, ``latents``, ``restored`` or ``photograph``; empty: none of these."""
    if path.name == REPORT_NAME:
        return "restored"
    if path.suffix.lower() in PHOTOGRAPHS:
        return "photograph"
    if path.suffix.lower() == ".npz":
        return "latents" if _holds_latents(path) else ""
    if path.suffix.lower() not in (".h5", ".hdf5"):
        return ""
    if identify(path) is KnownFile.EMBEDDING:
        return "latents"
    return "images" if is_exportable(path) else ""


def _holds_latents(path: Path) -> bool:
    from phaseloom.data.formats.arrays import load_npz

    try:
        return "latents" in load_npz(path, ["latents"])
    except BadInput:
        return False


def list_signals(path: Path, /) -> Signals:
    """The images of a file whose kind is ``images``.

    Raises:
        BadInput: see `phaseloom.export.files.load`.
    """
    return to_signals(load(path))


def cut_plane(signal: Signal, number: int, /) -> Field:
    """One image of a signal ``(..., y, x)``: the real values, or the phase of a wave, radian.

    Args:
        signal: of at least two axes, the last ones lengths.
        number: of the plane, counted through all axes before.
    """
    values = np.asarray(signal.values)
    plane = values.reshape(-1, *values.shape[-2:])[number]
    y, x = signal.axes[-2:]
    corner = (y.start - y.step / 2, x.start - x.step / 2)
    return Field(np.angle(plane) if signal.is_complex else plane.astype(float), (y.step, x.step), corner)


def to_colours(image: np.ndarray, /) -> np.ndarray:
    """An image ``(channel, y, x)`` as ``(y, x, 3)`` from 0 to 1, no larger than a screen.

    Photographs keep their range; numbers beyond 0 and 1 go from their darkest to their brightest.
    """
    fold = max(1, math.ceil(max(image.shape[1:]) / MAX_SIDE))
    rows, columns = (size // fold * fold for size in image.shape[1:])
    few = np.stack([average_blocks(one[:rows, :columns], fold) for one in image])
    if few.min() < 0 or few.max() > 1:
        low, high = limits(few[0])
        few = (few - low) / max(high - low, 1e-30)
    shown = np.clip(few, 0, 1)
    return np.moveaxis(shown if len(shown) == 3 else np.repeat(shown[:1], 3, 0), 0, 2)


class RestoredImages:
    """Images before and after a restoration, by the report that ``restore apply`` leaves.

    Attributes:
        names: of the images.
        changes: root mean square of each change over the spread of the input.
    """

    def __init__(self, report: Path, root: Path):
        if report.stat().st_size > MAX_REPORT_BYTES:
            raise BadInput(report.name, None, "is too large to be a report of phaseloom restore apply")
        tree = parse_json(report.read_text(encoding="utf-8"), report.name)
        images = tree.get("images") if isinstance(tree, dict) else None
        if not isinstance(images, dict) or not all(isinstance(one, dict) for one in images.values()):
            raise BadInput(report.name, None, "is not a report of phaseloom restore apply: open its folder")
        self._folder = report.parent
        self._root = root
        self._images: dict[str, dict[str, Any]] = images
        self.names = list(images)
        self.changes = {name: one.get("change over spread") for name, one in images.items()}

    def read(self, name: str) -> dict[str, np.ndarray]:
        """Images ``(channel, y, x)``: ``before`` where the page has it, ``restored``, ``finer``."""
        one = self._images[name]
        found: dict[str, np.ndarray] = {}
        if (before := self._find_input(name)) is not None:
            found["before"] = read_with_alpha(before)[0]
        for label in ("restored", "finer"):
            if isinstance(place := one.get(label), str):
                inside = show_inside(self._root, self._folder / place)
                found[label] = read_with_alpha(resolve_inside(self._root, inside))[0]
        return found

    def _find_input(self, name: str) -> Path | None:
        """The file that was restored: named from the folder where the command ran, which is not known."""
        for start in (self._root, self._folder, self._folder.parent):
            try:
                return resolve_inside(self._root, show_inside(self._root, start / name))
            except OutsideRoot:
                continue
        return None


class LatentView:
    """The latents of a scan: clusters of them, and the mean pattern of each.

    Attributes:
        embedding: as the file has it.
        path: of the file.
    """

    def __init__(self, path: Path, root: Path):
        self.path = path
        self.embedding = ScanEmbedding.load(path)
        self._root = root
        self._means: tuple[np.ndarray, np.ndarray] | None = None  # labels, and the patterns of each

    def find_clusters(self, count: int, /) -> np.ndarray:
        """Labels ``(n,)`` by a mixture of the latents, with neighbours; 0 is the largest cluster."""
        found = self.embedding
        return fit_spatial_mixture(found.latents, count, found.positions, seeds=(0, 1)).labels

    def find_nearest(self, point: tuple[float, float], axes: tuple[int, int] | None = None, /) -> int:
        """The pattern nearest to a place (y, x) in angstrom, or to two latents."""
        places = self.embedding.positions if axes is None else self.embedding.latents[:, list(axes)]
        spread = np.ones(2) if axes is None else np.maximum(places.std(0), 1e-12)
        return int(np.hypot(*((places - np.array(point)) / spread).T).argmin())

    @cached_property
    def scan_view(self) -> ScanView:
        """The scan that was embedded.

        Raises:
            BadInput: it is not in the folder of the page, or has changed.
        """
        name = self.embedding.provenance.file
        path = self._find_scan(name)
        if path is None:
            raise BadInput("scan", name, "is not in the folder of the page: put it there for mean patterns")
        view = ScanView(path)
        require_same_scan(self.embedding, view.scan)
        return view

    def average_patterns(self, labels: np.ndarray, /) -> np.ndarray:
        """Mean pattern ``(y, x)`` of each cluster; errors as of `scan_view`."""
        if self._means is None or not np.array_equal(self._means[0], labels):
            self._means = labels, compute_mean_patterns(self.scan_view.scan, labels).patterns
        return self._means[1]

    def _find_scan(self, name: str) -> Path | None:
        """A file of this name beside the embedding, or not deep in the folder of the page."""
        plain = escape(Path(name).name)
        deep = (self._root.glob(pattern + plain) for pattern in ("", "*/", "*/*/", "*/*/*/"))
        for one in (self.path.parent / Path(name).name, *chain.from_iterable(deep)):
            if one.is_file() and one.resolve().is_relative_to(self._root):
                return one.resolve()
        return None
