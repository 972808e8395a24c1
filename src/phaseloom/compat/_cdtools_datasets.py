"""CDTools' datasets over our `Scan4D`: metres, torch tensors, and its frame of the laboratory."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from phaseloom.compat._cdtools_views import browsed, by_height, mean_pattern
from phaseloom.data import prepare
from phaseloom.data.formats import cxi
from phaseloom.data.formats._arrays import clean
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics import surface
from phaseloom.plot.interactive import View

__all__ = ["AxialPtychoDataset", "CDataset", "Ptycho2DDataset", "device_of", "moved", "travel"]

ANGSTROM = 1e-10
"""Metres."""

Parts = dict[str, Any]


@dataclass
class Field:
    """An attribute of a dataset that follows from its scan.

    What is read is a copy that the dataset keeps: changed in place (``dataset.translations[:, 1] *= -1``) or
    set anew, it changes the scan.
    """

    read: Callable[[Scan4D], Any]
    write: Callable[[Scan4D, Any], Parts]
    name: str = ""

    def __set_name__(self, owner: type, name: str) -> None:
        """Take the name of the attribute."""
        self.name = name

    def __get__(self, owner: "CDataset | None", kind: type | None = None) -> Any:
        """The value as a tensor on the dataset's device."""
        if owner is None:
            return self
        scan, name = owner.scan, self.name
        if name not in owner._lent:
            value = self.read(scan)
            value = value.to(owner.home) if isinstance(value, Tensor) else value
            owner._lent[name] = (value, value._version if isinstance(value, Tensor) else 0)
        return owner._lent[name][0]

    def __set__(self, owner: "CDataset", value: Any) -> None:
        """Make another scan."""
        owner.scan = replace(owner.scan, **self.write(owner.scan, value))


class Whole:
    """The scan of a dataset, with what was changed in place in the tensors that it gave away."""

    def __get__(self, owner: "CDataset | None", kind: type | None = None) -> Any:
        """The scan as it is now."""
        if owner is None:
            return self
        changed = {n: t for n, (t, v) in owner._lent.items() if isinstance(t, Tensor) and t._version != v}
        for name, tensor in changed.items():
            owner._scan = replace(owner._scan, **vars_of(owner)[name].write(owner._scan, tensor))
            owner._lent[name] = (tensor, tensor._version)
        return owner._scan

    def __set__(self, owner: "CDataset", value: Scan4D) -> None:
        """Take another scan; tensors given away before belong to the old one."""
        owner._scan, owner._lent = value, {}


class CDataset(Dataset):
    """Patterns with their translations, in CDTools' units and frame.

    It follows a frozen `Scan4D`; integers of any kind and files with NaN are understood.

    Attributes:
        scan: the `Scan4D`.
        patterns: ``(n, y, x)``.
        translations: ``(n, 3)``, motion of the beam in metres: minus that of the sample, which files hold.
        intensities: ``(n,)`` of each shot, or ``None``.
        wavelength: metres.
        detector_geometry: ``distance`` in metres, ``basis`` ``(3, 2)``: steps of rows and columns in metres;
            ``corner`` is ``None``, for patterns have zero frequency in their middle.
        mask: ``(y, x)``, True: good.
        background: ``(y, x)`` counts without beam, or ``None``.
        qe_mask: ``(y, x)`` efficiency of the pixels, or ``None``.
        entry_info, sample_info: text by name.
        home: device of the attributes.
        goal: device on which ``dataset[index]`` comes.

    Args:
        translations: see above.
        patterns: see above; numpy or torch.
        intensities: see above.
        wavelength: metres.
        detector_geometry: see above.
        mask: see above; pixels that are NaN in any pattern are masked besides.
        background: see above.
        qe_mask: see above.
        entry_info: text by name (``title``, ``start_time`` ...).

    Example:
        >>> geometry = {"distance": 1.0, "basis": [[0, -1e-4], [-1e-4, 0], [0, 0]]}
        >>> moved, counts = np.zeros((3, 3)), np.ones((3, 8, 8), np.uint16)
        >>> data = Ptycho2DDataset(moved, counts, wavelength=1e-9, detector_geometry=geometry)
        >>> (index, translation), pattern = data[2]
        >>> int(index), tuple(translation.shape), pattern.dtype
        (2, (3,), torch.float32)
    """

    _scan: Scan4D
    _lent: dict[str, tuple[Any, int]]
    scan: Any = Whole()
    patterns: Any = Field(lambda scan: _patterns(scan, slice(None)), lambda scan, new: _counted(new))
    translations: Any = Field(
        lambda s: torch.tensor(_metres(s), dtype=torch.float32), lambda scan, new: moved(new, scan.geometry)
    )
    intensities: Any = Field(lambda s: _float(s.weights), lambda scan, new: {"weights": _plain(new)})
    mask: Any = Field(lambda s: torch.tensor(s.mask), lambda scan, new: {"mask": _plain(new).astype(bool)})
    background: Any = Field(lambda s: _float(s.background), lambda scan, new: {"background": _plain(new)})
    qe_mask: Any = Field(lambda s: _float(s.flat), lambda scan, new: {"flat": _plain(new)})
    wavelength: Any = Field(
        lambda scan: torch.tensor(scan.geometry.wavelength * ANGSTROM, dtype=torch.float32),
        lambda scan, new: {"geometry": replace(scan.geometry, wavelength=float(new) / ANGSTROM)},
    )
    detector_geometry: Any = Field(
        lambda scan: _detector(scan.geometry),
        lambda scan, new: {"geometry": _geometry(new, scan.geometry.wavelength, scan.geometry.shape)},
    )
    entry_info: Any = Field(
        lambda scan: {name: text for name, text in scan.metadata.items() if name != "sample"},
        lambda scan, new: {"metadata": dict(new)},
    )
    sample_info: Any = Field(
        lambda scan: {"name": name} if (name := scan.metadata.get("sample")) else {},
        lambda scan, new: {"metadata": {**scan.metadata, "sample": str(dict(new).get("name", ""))}},
    )

    def __init__(
        self,
        translations: Any,
        patterns: Any,
        intensities: Any = None,
        *,
        wavelength: float,
        detector_geometry: Mapping[str, Any],
        mask: Any = None,
        background: Any = None,
        qe_mask: Any = None,
        entry_info: Mapping[str, str] | None = None,
    ):
        counts, trusted = clean(np.array(_plain(patterns)), "patterns")
        geometry = _geometry(detector_geometry, float(wavelength) / ANGSTROM, counts.shape[1:])
        scan = Scan4D(
            counts=counts,
            geometry=geometry,
            mask=trusted if mask is None else trusted & _plain(mask).astype(bool),
            background=_plain(background),
            flat=_plain(qe_mask),
            weights=_plain(intensities),
            metadata=dict(entry_info or {}),
            **moved(translations, geometry),
        )
        self._begin(scan)

    def _begin(self, scan: Scan4D) -> None:
        self.scan, self.home, self.goal = scan, torch.device("cpu"), None

    @classmethod
    def of(cls, scan: Scan4D, /) -> Any:
        """A dataset of a scan of ours, however it was read or prepared."""
        made = cls.__new__(cls)
        made._begin(scan)
        return made

    @classmethod
    def from_cxi(
        cls,
        cxi_file: str | os.PathLike[str] | h5py.File,
        cut_zeros: bool = True,
        load_patterns: bool = True,
    ) -> Any:
        """Read a CXI file, as `phaseloom.data.formats.cxi.read` does.

        Args:
            cxi_file: its path, or the open file.
            cut_zeros: set negative counts to zero, as is always done.
            load_patterns: False leaves the patterns in the file, to be read when they are needed.
        """
        if not cut_zeros:
            raise BadInput("from_cxi: cut_zeros", False, "is not built: counts below zero are set to zero")
        path = cxi_file.filename if isinstance(cxi_file, h5py.File) else cxi_file
        return cls.of(cxi.read(path, lazy=None if load_patterns else True))

    def to_cxi(self, cxi_file: str | os.PathLike[str], /) -> None:
        """Write a CXI file."""
        cxi.write(self.scan, cxi_file)

    def to(self, device: Any) -> None:
        """Have all attributes on a device."""
        self.home = device_of(device, "dataset.to")
        self.scan = self.scan

    def get_as(self, device: Any) -> None:
        """Have ``dataset[index]`` on a device; the rest stays where it is."""
        self.goal = device_of(device, "dataset.get_as")

    def __len__(self) -> int:
        """Number of patterns."""
        return len(self.scan)

    def __getitem__(self, index: Any) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """``((index, translation), pattern)`` of one pattern or several."""
        place, goal = torch.as_tensor(np.arange(len(self))[index]), self.goal or self.home
        found = (self.translations[index], _patterns(self.scan, index))
        return (place.to(goal), found[0].to(goal)), found[1].to(goal)


class Ptycho2DDataset(CDataset):
    """A scan across the sample; transforms change the dataset itself, as they do in CDTools."""

    def inspect(
        self,
        logarithmic: bool = True,
        units: str = "um",
        log_offset: float = 1,
        plot_mean_pattern: bool = True,
        plot_mask: bool = False,
    ) -> View:
        """A map of intensities; the pattern of the place that was clicked is beside it.

        The key ``m`` shows the mean pattern, ``l`` switches the scale. Only ``logarithmic`` makes a
        difference here: lengths have the unit that suits them, the scale finds its own offset, and pixels
        that are masked are always red.
        """
        return self._view(log=logarithmic)

    def _view(self, *, log: bool) -> View:
        return browsed(self.scan, log=log)

    def plot_mean_pattern(self, log_offset: float = 1) -> Any:
        """The mean pattern in a figure of pyplot; a logarithmic scale finds its own offset."""
        return mean_pattern(self.scan)

    def pad(self, to_pad: Any, value: float = 0, mask: bool = True) -> None:
        """Surround patterns with pixels.

        Args:
            to_pad: how many on each side; or (left and right, top and bottom); or (left, right, top, bottom).
                Zero frequency is taken to be in the middle of the new pattern.
            value: counts in them.
            mask: whether they are masked.
        """
        self.scan = padded(self.scan, to_pad, value, mask=mask)

    def downsample(self, factor: int = 2) -> None:
        """Add the counts of ``factor`` x ``factor`` pixels; zero frequency stays in the middle of a block."""
        self.scan = prepare.bin(self.scan, factor=factor)

    def crop_translations(self, roi: Any) -> None:
        """Keep the patterns whose translation lies within (x0, x1, y0, y1), metres."""
        x, y = np.sort(np.asarray(roi, float).reshape(2, 2), axis=1)
        place = _metres(self.scan)
        inside = [(place[:, k] >= low) & (place[:, k] <= high) for k, (low, high) in enumerate((x, y))]
        if not (inside[0] & inside[1]).any():
            raise BadInput("crop_translations: roi", roi, "holds no pattern: give x0, x1, y0, y1 in metres")
        self.scan = self.scan.select(inside[0] & inside[1])

    def remove_translations_mask(self, mask_remove: Any) -> None:
        """Drop the patterns that a boolean mask ``(n,)`` names."""
        drop = _plain(mask_remove).astype(bool)
        if drop.shape != (len(self),):
            raise BadInput("remove_translations_mask", drop.shape, f"must be one for each of {len(self)}")
        self.scan = self.scan.select(~drop)

    def split(self) -> tuple[Any, Any]:
        """Two halves without a common pattern, the same ones every time."""
        kind = type(self)
        return kind.of(prepare.half(self.scan, which=0)), kind.of(prepare.half(self.scan, which=1))


class AxialPtychoDataset(Ptycho2DDataset):
    """A scan along the beam: the third column of ``translations`` tells the heights.

    It is read from the same files; lateral motion may come with it. ``inspect`` shows positions of the sample
    along the beam, and the pattern of the one that was clicked beside them.
    """

    def _view(self, *, log: bool) -> View:
        return by_height(self.scan, 0.0 - _metres(self.scan)[:, 2] / ANGSTROM, log=log)


def vars_of(owner: CDataset) -> dict[str, Field]:
    """The fields of a dataset by name."""
    return {name: item for name, item in vars(CDataset).items() if isinstance(item, Field)}


def device_of(device: Any, place: str) -> torch.device:
    """A device that is there.

    Raises:
        BadInput: it is not, or there is none of that name.
    """
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError):
        raise BadInput(f"{place}: device", device, "is no device: write 'cpu' or 'cuda'") from None
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"{place}: device", str(device), "is not on this machine: write device='cpu'")
    return wanted


def moved(translations: Any, geometry: Geometry) -> Parts:
    """Inverse of `travel`: ``positions`` and ``heights`` of a scan; no heights where all are the same."""
    table = np.asarray(_plain(translations), float)
    if table.ndim != 2 or table.shape[1] not in (2, 3):
        raise BadInput("translations", table.shape, "must be (n, 3): x, y, z of the beam in metres")
    table = np.column_stack([table, np.zeros(len(table))]) if table.shape[1] == 2 else table
    positions, heights = surface.landed(table / ANGSTROM, geometry.basis, geometry.normal)
    return {"positions": positions, "heights": heights if np.ptp(heights) > 1e-3 else None}


def padded(scan: Scan4D, to_pad: Any, value: float, *, mask: bool) -> Scan4D:
    """More pixels on each side."""
    each = np.atleast_1d(np.asarray(to_pad))
    if each.dtype.kind not in "iu" or each.shape not in ((1,), (2,), (4,)) or (each < 0).any():
        raise BadInput("pad: to_pad", to_pad, "must be one, two or four whole numbers of pixels")
    left, right, top, bottom = np.repeat(each, 4 // len(each)).tolist()
    (rows, columns), high, wide = scan.geometry.shape, max(top, bottom), max(left, right)
    large = prepare.pad(scan, to=(rows + 2 * high, columns + 2 * wide), fill="constant", value=value)
    if mask:
        seen = prepare.pad(scan, to=large.geometry.shape).mask
        large = replace(large, mask=seen)
    return prepare.window(
        large, rows=(high - top, high + rows + bottom), columns=(wide - left, wide + columns + right)
    )


def _plain(values: Any) -> Any:
    return (
        values.detach().cpu().numpy()
        if isinstance(values, Tensor)
        else None
        if values is None
        else (np.asarray(values))
    )


def _float(values: np.ndarray | None) -> Tensor | None:
    return None if values is None else torch.tensor(values, dtype=torch.float32)


def _patterns(scan: Scan4D, index: Any) -> Tensor:
    """Patterns of an index in single precision."""
    place = np.arange(len(scan))[index]
    read = torch.tensor(np.asarray(scan.counts[np.atleast_1d(place)], np.float32))
    return read if np.ndim(place) else read[0]


def _counted(new: Any) -> Parts:
    counts, trusted = clean(np.array(_plain(new)), "patterns")
    return {"counts": counts} if trusted.all() else {"counts": counts, "mask": trusted}


def travel(positions: np.ndarray, heights: np.ndarray | None, geometry: Geometry) -> np.ndarray:
    """Motion of the beam ``(n, 3)`` in metres, as CDTools has it; files hold that of the sample."""
    return 0.0 - cxi.motion(positions, heights, geometry)


def _metres(scan: Scan4D) -> np.ndarray:
    return travel(scan.positions, scan.heights, scan.geometry)


def _detector(geometry: Geometry) -> dict[str, Any]:
    """Distance and basis; of electrons, whose distance nobody knows, for one metre."""
    distance = 1.0 if geometry.distance is None else geometry.distance * ANGSTROM
    basis = np.asarray(geometry.basis) * np.asarray(geometry.angle) * distance
    tensors = {"distance": torch.tensor(distance), "basis": torch.tensor(basis, dtype=torch.float32)}
    return {**tensors, "corner": None}


def _geometry(given: Mapping[str, Any], wavelength: float, shape: Any) -> Geometry:
    missing = [name for name in ("distance", "basis") if given.get(name) is None]
    if missing:
        raise BadInput("detector_geometry", None, f"lacks {' and '.join(missing)}: give metres")
    distance, basis = float(given["distance"]), np.asarray(_plain(given["basis"]), float)
    sizes = np.linalg.norm(basis, axis=0) if basis.shape == (3, 2) else np.zeros(1)
    if not (np.isfinite(sizes).all() and (sizes > 0).all() and distance > 0):
        raise BadInput("detector_geometry", given, "must have a distance in metres and a basis (3, 2)")
    return Geometry(
        wavelength=wavelength,
        shape=(int(shape[0]), int(shape[1])),
        angle=(float(sizes[0] / distance), float(sizes[1] / distance)),
        distance=distance / ANGSTROM,
        basis=tuple((float(a), float(b)) for a, b in basis / sizes),
    )
