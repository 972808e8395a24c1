"""CDTools' datasets over our `Scan4D`: metres, torch tensors, and its frame of the laboratory."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from phaseloom.compat.cdtools.data import (
    ANGSTROM,
    CDataset,
    array,
    counted,
    device_of,
    geometry_of,
    moved,
    scan_of,
    travel,
    wave_of,
)
from phaseloom.compat.cdtools.tools import data as cxi_items
from phaseloom.compat.cdtools.validate import asked, path_of
from phaseloom.compat.cdtools.views import browsed, by_height, mean_pattern
from phaseloom.data import prepare
from phaseloom.data.formats import cxi
from phaseloom.data.formats._files import opened
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.plot.gui import View

__all__ = ["AxialPtychoDataset", "CDataset", "Ptycho2DDataset", "ScanDataset", "device_of", "moved", "travel"]

Parts = dict[str, Any]

AXES = ("translation", "y", "x")


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

    def __get__(self, owner: "ScanDataset | None", kind: type | None = None) -> Any:
        """The value as a tensor on the dataset's device."""
        if owner is None:
            return self
        scan, name = owner.scan, self.name
        if name not in owner._lent:
            value = self.read(scan)
            value = value.to(owner.home) if isinstance(value, Tensor) else value
            owner._lent[name] = (value, value._version if isinstance(value, Tensor) else 0)
        return owner._lent[name][0]

    def __set__(self, owner: "ScanDataset", value: Any) -> None:
        """Make another scan."""
        owner.scan = replace(owner.scan, **self.write(owner.scan, value))


def _of_sample(name: str) -> bool:
    return name == "sample" or name.startswith("sample.")


def _sample(scan: Scan4D) -> dict[str, Any]:
    """What is known of the sample; of a tilted one ``orientation``, its axes as rows, the normal last."""
    found: dict[str, Any] = {"name": name} if (name := scan.metadata.get("sample")) else {}
    for name, text in scan.metadata.items():
        if name.startswith("sample."):
            found[name.removeprefix("sample.")] = text
            with suppress(ValueError):
                found[name.removeprefix("sample.")] = np.float32(text)
    if scan.geometry.tilted:
        found["orientation"] = cxi_items.axes_of(np.array(scan.geometry.normal))
    return found


def _resampled(scan: Scan4D, new: Mapping[str, Any] | None) -> Parts:
    """The sample as a dict tells it; another orientation leaves translations what they are."""
    told = dict(new or {})
    metadata = {name: text for name, text in scan.metadata.items() if not _of_sample(name)}
    axes = told.pop("orientation", None)
    normal = told.pop("surface_normal", None if axes is None else np.cross(*array(axes).reshape(-1, 3)[:2]))
    for name, value in told.items():
        metadata["sample" if name == "name" else f"sample.{name}"] = str(value)
    if normal is None:
        return {"metadata": metadata}
    x, y, z = (float(v) for v in array(normal))
    geometry = replace(scan.geometry, normal=(x, y, z))
    return {"metadata": metadata, "geometry": geometry, **moved(_metres(scan), geometry)}


class Whole:
    """The scan of a dataset, with what was changed in place in the tensors that it gave away."""

    def __get__(self, owner: "ScanDataset | None", kind: type | None = None) -> Any:
        """The scan as it is now."""
        if owner is None:
            return self
        changed = {n: t for n, (t, v) in owner._lent.items() if isinstance(t, Tensor) and t._version != v}
        for name, tensor in changed.items():
            owner._scan = replace(owner._scan, **vars_of(owner)[name].write(owner._scan, tensor))
            owner._lent[name] = (tensor, tensor._version)
        return owner._scan

    def __set__(self, owner: "ScanDataset", value: Scan4D) -> None:
        """Take another scan; tensors given away before belong to the old one."""
        owner._scan, owner._lent = value, {}


class ScanDataset(CDataset):
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
        entry_info: text by name.
        sample_info: text and numbers by name, and of a tilted sample its ``orientation``; set it anew to
            change it.
        axes: names of the axes of ``patterns``.
        home: device of the attributes.

    Args:
        translations: see above.
        patterns: see above; numpy or torch.
        intensities: see above.
        axes: see above.
        entry_info: text by name (``title``, ``start_time`` ...).
        sample_info: see above.
        wavelength: metres.
        detector_geometry: see above.
        mask: see above; pixels that are NaN or infinite in any pattern are masked besides.
        qe_mask: see above.
        background: see above.

    Raises:
        BadInput: what is no data of an experiment; the sentence names it.

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
    intensities: Any = Field(lambda s: _float(s.weights), lambda scan, new: {"weights": array(new)})
    mask: Any = Field(lambda s: torch.tensor(s.mask), lambda scan, new: {"mask": array(new).astype(bool)})
    background: Any = Field(lambda s: _float(s.background), lambda scan, new: {"background": array(new)})
    qe_mask: Any = Field(lambda s: _float(s.flat), lambda scan, new: {"flat": array(new)})
    wavelength: Any = Field(
        lambda scan: torch.tensor(scan.geometry.wavelength * ANGSTROM, dtype=torch.float32),
        lambda scan, new: {"geometry": replace(scan.geometry, wavelength=wave_of(new) / ANGSTROM)},
    )
    detector_geometry: Any = Field(
        lambda scan: _detector(scan.geometry),
        lambda scan, new: {"geometry": geometry_of(new, scan.geometry.wavelength, scan.geometry.shape)},
    )
    entry_info: Any = Field(
        lambda s: {name: text for name, text in s.metadata.items() if not _of_sample(name)},
        lambda scan, new: {"metadata": {k: v for k, v in scan.metadata.items() if _of_sample(k)} | dict(new)},
    )
    sample_info: Any = Field(_sample, _resampled)

    @asked
    def __init__(  # noqa: PLR0913, PLR0917 - as CDTools has it
        self,
        translations: Any,
        patterns: Any,
        intensities: Any = None,
        axes: Any = None,
        entry_info: Mapping[str, str] | None = None,
        sample_info: Mapping[str, Any] | None = None,
        wavelength: Any = None,
        detector_geometry: Mapping[str, Any] | None = None,
        mask: Any = None,
        qe_mask: Any = None,
        background: Any = None,
    ):
        held = {"wavelength": wavelength, "detector_geometry": detector_geometry, "mask": mask}
        held |= {"background": background, "qe_mask": qe_mask, "metadata": entry_info}
        self._begin(scan_of(translations, patterns, intensities=intensities, **held))
        self.axes = list(axes or AXES)
        if sample_info:
            self.sample_info = sample_info

    def _begin(self, scan: Scan4D) -> None:
        self.scan, self.home, self.axes = scan, torch.device("cpu"), list(AXES)

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
        path = cxi_file.filename if isinstance(cxi_file, h5py.File) else path_of("from_cxi", cxi_file)
        made = cls.of(cxi.read(path, lazy=None if load_patterns else True))
        with opened(Path(path)) as file:
            _tell(made, file)
        return made

    def to_cxi(self, cxi_file: str | os.PathLike[str], /) -> None:  # type: ignore[override]
        """Write a CXI file."""
        cxi.write(self.scan, cxi_file)
        known = {name: v for name, v in self.sample_info.items() if name not in ("name", "orientation")}
        with h5py.File(cxi_file, "r+") as file:
            cxi_items.add_sample_info(file, known)

    def to(self, device: Any) -> None:  # type: ignore[override]
        """Have all attributes on a device."""
        self.home = device_of(device, "dataset.to")
        self.scan = self.scan

    def __len__(self) -> int:
        """Number of patterns."""
        return len(self.scan)

    def _load(self, index: Any) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """``((index, translation), pattern)`` of one pattern or several."""
        place = torch.as_tensor(np.arange(len(self))[index], device=self.home)
        return (place, self.translations[index]), _patterns(self.scan, index).to(self.home)


class Ptycho2DDataset(ScanDataset):
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
        drop = array(mask_remove).astype(bool)
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


def vars_of(owner: ScanDataset) -> dict[str, Field]:
    """The fields of a dataset by name."""
    return {name: item for name, item in vars(ScanDataset).items() if isinstance(item, Field)}


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


def _float(values: np.ndarray | None) -> Tensor | None:
    return None if values is None else torch.tensor(values, dtype=torch.float32)


def _patterns(scan: Scan4D, index: Any) -> Tensor:
    """Patterns of an index in single precision."""
    place = np.arange(len(scan))[index]
    read = torch.tensor(np.asarray(scan.counts[np.atleast_1d(place)], np.float32))
    return read if np.ndim(place) else read[0]


def _counted(new: Any) -> Parts:
    counts, trusted = counted(new)
    return {"counts": counts} if trusted.all() else {"counts": counts, "mask": trusted}


def _metres(scan: Scan4D) -> np.ndarray:
    return travel(scan.positions, scan.heights, scan.geometry)


def _tell(dataset: ScanDataset, file: Any) -> None:
    """What a file knows of the sample beside its name and normal."""
    known = cxi_items.get_sample_info(file) or {}
    more = {f"sample.{k}": str(v) for k, v in known.items() if k not in ("name", "orientation", "unit_cell")}
    if more:
        dataset.scan = replace(dataset.scan, metadata={**dataset.scan.metadata, **more})


def _detector(geometry: Geometry) -> dict[str, Any]:
    """Distance and basis; of electrons, whose distance nobody knows, for one metre."""
    distance = 1.0 if geometry.distance is None else geometry.distance * ANGSTROM
    basis = np.asarray(geometry.basis) * np.asarray(geometry.angle) * distance
    tensors = {"distance": torch.tensor(distance), "basis": torch.tensor(basis, dtype=torch.float32)}
    return {**tensors, "corner": None}
