"""CDTools' datasets over our `Scan4D`: metres, torch tensors, and its frame of the laboratory."""

import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from phaseloom.compat.cdtools.arguments import accepts, check_path
from phaseloom.compat.cdtools.datasets import base
from phaseloom.compat.cdtools.datasets.base import (
    METRES_PER_ANGSTROM,
    CDataset,
    to_array,
    to_positions,
    to_translations,
)
from phaseloom.compat.cdtools.figures import browse_scan, draw_mean_pattern
from phaseloom.compat.cdtools.tools import data as cxi_items
from phaseloom.data import prepare
from phaseloom.data.counts import map_counts
from phaseloom.data.formats import cxi
from phaseloom.data.formats.files import open_hdf5
from phaseloom.data.scan import LAB_BASIS, Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.plot.gui import SteppedView

__all__ = ["AxialPtychoDataset", "CDataset", "Ptycho2DDataset"]

AXES = ("translation", "y", "x")
LARGEST_SCAN = 1.0
"""Metres that translations of a file span where `phaseloom.data.formats.cxi` takes them for a mistake."""

STAND_INS = {
    "wavelength": METRES_PER_ANGSTROM,
    "detector_geometry": {"distance": 1.0, "basis": np.asarray(LAB_BASIS) * 1e-4},
}
"""What stands for optics that a dataset was made without, until they are set."""

Changes = dict[str, Any]


@dataclass
class ScanField:
    """An attribute of a dataset that follows from its scan.

    What is read is a copy that the dataset keeps: changed in place (``dataset.translations[:, 1] *= -1``) or
    set anew, it changes the scan.
    """

    read: Callable[[Scan4D], Any]
    write: Callable[[Scan4D, Any], Changes]
    name: str = ""

    def __set_name__(self, owner: type, name: str) -> None:
        """Take the name of the attribute."""
        self.name = name

    def __get__(self, owner: "Ptycho2DDataset | None", kind: type | None = None) -> Any:
        """The value as a tensor of the dataset's device and type; ``None`` for optics that are not known."""
        if owner is None:
            return self
        if self.name in owner._unknown:
            return None
        scan = owner._current_scan()
        if self.name not in owner._copies:
            value = self.read(scan)
            if isinstance(value, np.ndarray):
                dtype = torch.bool if value.dtype == bool else owner._dtypes.get(self.name, torch.float32)
                value = _to_tensor(value, dtype, owner.home)
            owner._copies[self.name] = (value, value._version if isinstance(value, Tensor) else 0)
        return owner._copies[self.name][0]

    def __set__(self, owner: "Ptycho2DDataset", value: Any) -> None:
        """Replace the scan."""
        owner.scan = replace(owner._current_scan(), **self.write(owner._current_scan(), value))
        owner._unknown.discard(self.name)
        if isinstance(value, Mapping):
            owner._copies[self.name] = (dict(value), 0)


def _to_tensor(values: np.ndarray, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A copy; numpy converts it, because not every unsigned integer of a detector is a type of torch."""
    single = dtype == torch.float32 and values.dtype != bool
    return torch.tensor(
        np.asarray(values, np.float32) if single else values.astype(float), dtype=dtype, device=device
    )


def _write_geometry(scan: Scan4D, new: Mapping[str, Any]) -> Changes:
    """Another detector; translations stay what they are."""
    geometry = base.to_geometry(new, scan.geometry.wavelength, scan.geometry.shape)
    geometry = replace(geometry, normal=scan.geometry.normal)
    return {"geometry": geometry, **_keep_translations(scan, geometry)}


def _keep_translations(scan: Scan4D, geometry: Geometry) -> Changes:
    """Positions in another geometry."""
    same = geometry.basis == scan.geometry.basis and geometry.normal == scan.geometry.normal
    return {} if same else to_positions(_translations(scan), geometry)


def _translations(scan: Scan4D) -> np.ndarray:
    return to_translations(scan.positions, scan.heights, scan.geometry)


def _read_geometry(scan: Scan4D) -> dict[str, Any]:
    """Distance and basis; of electrons, whose distance nobody knows, for one metre."""
    geometry = scan.geometry
    distance = 1.0 if geometry.distance is None else geometry.distance * METRES_PER_ANGSTROM
    basis = np.asarray(geometry.basis) * np.asarray(geometry.angle) * distance
    return {
        "distance": torch.tensor(distance),
        "basis": torch.tensor(basis, dtype=torch.float32),
        "corner": None,
    }


def _blank_bad_pixels(counts: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask, counts, 0).astype(counts.dtype)


def _write_patterns(scan: Scan4D, new: Any) -> Changes:
    counts, finite = base.clean_patterns(new)
    return {"counts": counts} if finite.all() else {"counts": counts, "mask": finite}


def _floats(name: str) -> ScanField:
    """A field of numbers of the scan, or ``None``."""
    return ScanField(lambda scan: getattr(scan, name), lambda scan, new: {name: to_array(new)})


class Ptycho2DDataset(CDataset):
    """Patterns with their translations, in CDTools' units and frame; transforms change the dataset itself.

    It follows a frozen `Scan4D`; integers of any kind and files with NaN are understood.

    Attributes are those of `CDataset` and these.

    Attributes:
        patterns: ``(n, y, x)``.
        translations: ``(n, 3)``, motion of the beam in metres: minus that of the sample, which files hold.
        intensities: ``(n,)`` of each shot, or ``None``.
        detector_geometry: its ``corner`` is ``None``, for patterns have zero frequency in their middle.
        mask: ``(y, x)``, True: good; pixels that are NaN or infinite in any pattern are masked besides.
        sample_info: text and numbers by name, and of a tilted sample its ``orientation``; set it anew to
            change it.
        axes: names of the axes of ``patterns``.
        home: device of the attributes.

    Raises:
        BadInput: arrays that are not data of an experiment; the sentence names them.

    Example:
        >>> geometry = {"distance": 1.0, "basis": [[0, -1e-4], [-1e-4, 0], [0, 0]]}
        >>> moved, counts = np.zeros((3, 3), np.float32), np.ones((3, 8, 8), np.uint16)
        >>> data = Ptycho2DDataset(moved, counts, wavelength=1e-9, detector_geometry=geometry)
        >>> (index, translation), pattern = data[2]
        >>> int(index), tuple(translation.shape), pattern.dtype
        (2, (3,), torch.float32)
    """

    _scan: Scan4D
    _copies: dict[str, tuple[Any, int]]
    _unknown: set[str]
    _dtypes: dict[str, torch.dtype]
    _sample_info: dict[str, Any] | None
    patterns: Any = ScanField(lambda scan: np.asarray(scan.counts[np.arange(len(scan))]), _write_patterns)
    translations: Any = ScanField(_translations, lambda scan, new: to_positions(new, scan.geometry))
    intensities: Any = _floats("weights")
    mask: Any = ScanField(lambda scan: scan.mask, lambda scan, new: {"mask": to_array(new).astype(bool)})
    background: Any = _floats("background")
    qe_mask: Any = _floats("flat")
    wavelength: Any = ScanField(
        lambda scan: np.float64(scan.geometry.wavelength * METRES_PER_ANGSTROM),
        lambda scan, new: {
            "geometry": replace(scan.geometry, wavelength=base.check_wavelength(new) / METRES_PER_ANGSTROM)
        },
    )
    detector_geometry: Any = ScanField(_read_geometry, _write_geometry)

    @accepts(
        "translations patterns intensities axes entry_info sample_info wavelength detector_geometry mask "
        "qe_mask background"
    )
    def __init__(self, axes: Any, entry_info: Any, sample_info: Any, **given: Any):
        optics = {name: given[name] if given[name] is not None else STAND_INS[name] for name in STAND_INS}
        self._begin(base.to_scan(**given | optics), entry_info, axes)
        self._unknown = {name for name in STAND_INS if given[name] is None}
        if isinstance(given["detector_geometry"], Mapping):
            self._copies["detector_geometry"] = (dict(given["detector_geometry"]), 0)
        for name in ("translations", "patterns"):
            if to_array(given[name]).dtype == np.float64:
                self._dtypes[name] = torch.float64
        self._sample_info = None
        if sample_info is not None:
            self.sample_info = sample_info

    def _begin(self, scan: Scan4D, entry_info: Any, axes: Any = None) -> None:
        self.scan = scan
        self._unknown = set()
        self._dtypes = {}
        self.home = torch.device("cpu")
        self.entry_info = entry_info
        self.axes = list(axes or AXES)

    @classmethod
    def of(cls, scan: Scan4D, /) -> Any:
        """A dataset of a scan of ours, however it was read or prepared."""
        made = cls.__new__(cls)
        made._begin(scan, {name: text for name, text in scan.metadata.items() if name != "sample"})
        name = scan.metadata.get("sample")
        made._sample_info = {"name": name} if name else {}
        if scan.geometry.has_tilted_sample:
            made._sample_info["orientation"] = cxi_items.axes_of(np.array(scan.geometry.normal))
        return made

    @property
    def scan(self) -> Scan4D:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The scan of the present attributes."""
        if self._unknown:
            name = max(self._unknown)
            raise BadInput(name, None, f"is needed: set dataset.{name}, in metres")
        return self._current_scan()

    @scan.setter
    def scan(self, value: Scan4D) -> None:
        """Take another scan; tensors given away before belong to the old one."""
        self._scan = value
        self._copies = {}

    def _current_scan(self) -> Scan4D:
        """The scan with what was changed in the tensors that were given away; its optics may be stand-ins."""
        for name, (tensor, version) in self._copies.items():
            if isinstance(tensor, Tensor) and tensor._version != version:
                field = getattr(Ptycho2DDataset, name)
                self._scan = replace(self._scan, **field.write(self._scan, tensor))
                self._copies[name] = (tensor, tensor._version)
        return self._scan

    @property
    def sample_info(self) -> dict[str, Any] | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What is known of the sample."""
        return self._sample_info

    @sample_info.setter
    def sample_info(self, new: Mapping[str, Any] | None) -> None:
        """Another orientation leaves translations what they are."""
        self._sample_info = None if new is None else dict(new)
        axes = (new or {}).get("orientation")
        normal = (new or {}).get("surface_normal")
        if normal is None and axes is not None:
            normal = np.cross(*to_array(axes).reshape(-1, 3)[:2])
        if normal is not None:
            scan = self._current_scan()
            geometry = replace(scan.geometry, normal=tuple(float(number) for number in to_array(normal)))
            if geometry != scan.geometry:
                self.scan = replace(scan, geometry=geometry, **_keep_translations(scan, geometry))

    @classmethod
    def from_cxi(
        cls, cxi_file: str | os.PathLike[str] | h5py.File, cut_zeros: bool = True, load_patterns: bool = True
    ) -> Any:
        """Read a CXI file, its path or the open file, as `phaseloom.data.formats.cxi.read` does on disk.

        ``cut_zeros`` must be True; without ``load_patterns`` patterns are read when they are needed.
        """
        if not cut_zeros:
            raise BadInput(
                "from_cxi: cut_zeros", False, "is not supported: counts below zero are set to zero"
            )
        path = (
            Path(cxi_file.filename) if isinstance(cxi_file, h5py.File) else check_path("from_cxi", cxi_file)
        )
        with nullcontext(cxi_file) if isinstance(cxi_file, h5py.File) else open_hdf5(path) as file:
            if path.is_file() and cxi_items.measure_scan(file) <= LARGEST_SCAN:
                made = cls.of(cxi.read(path, field="far", lazy=None if load_patterns else True))
            else:
                arrays = (cxi_items.get_ptycho_translations(file), cxi_items.get_data(file)[0])
                made = cls.of(base.to_scan(*arrays, **cxi_items.read_optics(file)))
            if cxi_items.find_data(file).dtype == np.float64:
                warnings.warn("patterns stored as 64-bit floats are read as 32-bit floats", stacklevel=2)
            made.entry_info = cxi_items.get_entry_info(file)
            made._sample_info = cxi_items.get_sample_info(file)
        return made

    def to_cxi(self, cxi_file: str | os.PathLike[str] | h5py.File) -> None:
        """Write a CXI file, or into an open one."""
        if isinstance(cxi_file, h5py.File):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "scan.cxi"
                self.to_cxi(path)
                with h5py.File(path, "r") as file:
                    _copy_groups(file, cxi_file)
            return
        info = self.sample_info or {}
        texts = {name: cxi_items.as_text(value) for name, value in (self.entry_info or {}).items()}
        if "name" in info:
            texts["sample"] = str(info["name"])
        cxi.write(replace(self.scan, metadata=texts), cxi_file)
        with h5py.File(cxi_file, "r+") as file:
            cxi_items.add_sample_info(
                file, {k: v for k, v in info.items() if k not in ("name", "orientation")}
            )

    def to(self, *args: Any, **kwargs: Any) -> None:
        """Have all attributes on a device, or floating-point numbers of a type."""
        self.home = base.check_device("dataset.to", *args, **kwargs) or self.home
        given = [one for one in (*args, kwargs.get("dtype")) if isinstance(one, torch.dtype)]
        for name in ("patterns", "translations", "qe_mask", "background", "intensities"):
            self._dtypes.update(dict.fromkeys([name], given[-1]) if given else {})
        self.scan = self._current_scan()

    def __len__(self) -> int:
        """Number of patterns."""
        return len(self._scan)

    def _load(self, index: Any) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """``((index, translation), pattern)`` of one pattern or several."""
        number = np.arange(len(self))[index]
        dtype = self._dtypes.get("patterns", torch.float32)
        counts = np.asarray(self._current_scan().counts[np.atleast_1d(number)])
        patterns = _to_tensor(counts, dtype, self.home)
        place = torch.as_tensor(number, device=self.home)
        return (place, self.translations[index]), patterns if np.ndim(number) else patterns[0]

    def inspect(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        logarithmic: bool = True,
        units: str = "um",
        log_offset: float = 1,
        plot_mean_pattern: bool = True,
        plot_mask: bool = False,
    ) -> SteppedView:
        """A map of intensities; the pattern of the place that was clicked is beside it.

        The key ``m`` shows the mean pattern, ``l`` switches the scale. Only ``logarithmic`` has an effect:
        lengths have the unit that suits them, the scale finds its own offset, masked pixels are always red.
        """
        return browse_scan(self.scan, log=logarithmic)

    def plot_mean_pattern(self, log_offset: float = 1) -> Any:
        """The mean pattern in a figure of pyplot; a logarithmic scale finds its own offset."""
        return draw_mean_pattern(self.scan)

    def pad(self, to_pad: Any, value: float = 0, mask: bool = True) -> None:
        """Surround patterns with pixels of ``value`` counts, masked or not.

        ``to_pad`` is how many on each side; or (left and right, top and bottom); or (left, right, top,
        bottom). Zero frequency is taken to be in the middle of the new pattern.
        """
        self.scan = _pad(self.scan, to_pad, value, mask=mask)

    def downsample(self, factor: int = 2) -> None:
        """Add the good counts of ``factor`` x ``factor`` pixels, from the first row and column.

        Zero frequency comes to lie up to a block beside the middle, which a probe that is fitted takes up.
        `phaseloom.data.prepare.bin` keeps it in the middle. A block is good when all of its pixels are; of a
        dataset with a ``qe_mask``, when one is, and the mean efficiency counts the others as zero.
        """
        scan = self._current_scan()
        flat = None if scan.flat is None else scan.flat * scan.mask
        counts = map_counts(scan.counts, partial(_blank_bad_pixels, mask=scan.mask))
        small = prepare.bin(replace(scan, counts=counts, flat=flat), factor=factor, about="detector")
        if small.flat is not None:
            small = replace(small, mask=small.flat > 0)
        self.scan = small

    def crop_translations(self, roi: Any) -> None:
        """Keep the patterns whose translation lies within (x0, x1, y0, y1), metres."""
        low, high = np.sort(np.asarray(roi, float).reshape(2, 2), axis=1).T
        places = to_array(self.translations)[:, :2]
        inside = ((places >= low) & (places <= high)).all(1)
        if not inside.any():
            fix = "contains no position (i.e., patterns and translations will be empty): give metres"
            raise BadInput("crop_translations: roi", roi, fix)
        self.scan = self._current_scan().select(inside)

    def remove_translations_mask(self, mask_remove: Any) -> None:
        """Drop the patterns that a boolean mask ``(n,)`` names."""
        drop = to_array(mask_remove).astype(bool)
        if drop.shape != (len(self),):
            fix = f"The mask must have the same length as the dataset, {len(self)}, got {drop.shape}"
            raise BadInput("remove_translations_mask", None, fix)
        self.scan = self._current_scan().select(~drop)

    def split(self) -> tuple[Any, Any]:
        """Two halves without a common pattern, the same ones every time."""
        kind = type(self)
        return kind.of(prepare.half(self.scan, which=0)), kind.of(prepare.half(self.scan, which=1))


class AxialPtychoDataset(Ptycho2DDataset):
    """A scan along the beam: the third column of ``translations`` tells the heights.

    It is read from the same files; lateral motion may come with it. ``inspect`` shows positions of the sample
    along the beam, and the pattern of the one that was clicked beside them.
    """

    def inspect(self, logarithmic: bool = True, *args: Any, **kwargs: Any) -> SteppedView:
        """Positions along the beam, and a pattern."""
        heights = 0.0 - _translations(self.scan)[:, 2] / METRES_PER_ANGSTROM
        return browse_scan(self.scan, log=logarithmic, heights=heights)


def _pad(scan: Scan4D, to_pad: Any, value: float, *, mask: bool) -> Scan4D:
    """More pixels on each side."""
    each = np.atleast_1d(np.asarray(to_pad))
    if each.dtype.kind not in "iu" or each.shape not in ((1,), (2,), (4,)) or (each < 0).any():
        raise BadInput("pad: to_pad", to_pad, "must be one, two or four whole numbers of pixels")
    left, right, top, bottom = np.repeat(each, 4 // len(each)).tolist()
    rows, columns = scan.geometry.shape
    high = max(top, bottom)
    wide = max(left, right)
    large = prepare.pad(scan, to=(rows + 2 * high, columns + 2 * wide), fill="constant", value=value)
    if mask:
        large = replace(large, mask=prepare.pad(scan, to=large.geometry.shape).mask)
    inner = ((high - top, high + rows + bottom), (wide - left, wide + columns + right))
    return prepare.window(large, rows=inner[0], columns=inner[1])


def _copy_groups(source: Any, target: Any) -> None:
    """Copy all of a group into another one, whose other items stay."""
    for name in source:
        link = source.get(name, getlink=True)
        if isinstance(link, h5py.HardLink) and isinstance(source[name], h5py.Group) and name in target:
            _copy_groups(source[name], target[name])
            continue
        if name in target:
            del target[name]
        if isinstance(link, h5py.SoftLink):
            target[name] = h5py.SoftLink(link.path)
        else:
            source.copy(name, target)
