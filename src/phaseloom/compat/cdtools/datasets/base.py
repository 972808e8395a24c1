"""CDTools' base of datasets, which users derive their own from, and its conversion to a `Scan4D`."""

import os
from collections.abc import Mapping
from copy import copy
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from phaseloom.compat.cdtools.tools import data as cxi_items
from phaseloom.data.formats import cxi
from phaseloom.data.formats.arrays import clean_counts
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics import tilted_planes as tilted_sample

__all__ = ["METRES_PER_ANGSTROM", "CDataset", "check_dataset", "check_device", "to_array", "to_geometry"]
__all__ += ["to_positions", "to_scan", "to_table", "to_translations"]

METRES_PER_ANGSTROM = 1e-10

SHORTEST_WAVELENGTH = 1e-13
"""Metres: electrons of 10 MeV."""

LONGEST_WAVELENGTH = 1e-3
"""Metres: far infrared light."""

SMALLEST_HEIGHT_RANGE = 1e-3
"""Angstrom; heights that differ by less are the same."""


class DerivedScan:
    """The `Scan4D` of what a dataset of a user's class holds; a scan that is set takes its place."""

    def __get__(self, owner: "CDataset | None", kind: type | None = None) -> Any:
        """The scan of the present attributes."""
        if owner is None:
            return self
        names = ("translations", "patterns", "wavelength", "detector_geometry")
        found = {name: getattr(owner, name, None) for name in names}
        missing = [name for name, value in found.items() if value is None]
        if missing:
            fix = f"has no {', '.join(missing)}: set them, or fit a model of your own to it"
            raise BadInput(type(owner).__name__, None, fix)
        more = {name: getattr(owner, name, None) for name in ("mask", "background", "qe_mask", "intensities")}
        return to_scan(**found, **more)


class CDataset(Dataset):
    """What all datasets have; a class of your own defines ``_load(index)`` and ``__len__``.

    ``_load`` takes a number or a slice and gives ``((inputs ...), pattern)``: inputs are what the model's
    ``interaction`` is called with, ``pattern`` what its ``measurement`` is compared with.

    Attributes:
        entry_info, sample_info: dicts of what is known of the experiment, or ``None``.
        wavelength: metres.
        detector_geometry: dict of ``distance``, ``basis`` ``(3, 2)`` and ``corner``, metres.
        mask: bool ``(y, x)``, True: good; or ``None``.
        qe_mask: ``(y, x)`` efficiency of the pixels, or ``None``.
        background: ``(y, x)`` counts without beam, or ``None``.
        scan: a `Scan4D` of a dataset that has ``translations`` and ``patterns``, for the built-in models.
        get_as_args: what `get_as` was called with, (args, kwargs); empty: items come as they are stored.

    Example:
        >>> class Repeats(CDataset):
        ...     def __init__(self, patterns, **kwargs):
        ...         super().__init__(**kwargs)
        ...         self.patterns = torch.as_tensor(patterns)
        ...
        ...     def __len__(self):
        ...         return len(self.patterns)
        ...
        ...     def _load(self, index):
        ...         return (index,), self.patterns[index]
        >>> data = Repeats(np.ones((3, 4, 4), np.float32), wavelength=1e-9, mask=np.ones((4, 4)))
        >>> data.get_as(dtype=torch.float64)
        >>> (number,), pattern = data[1]
        >>> number, pattern.dtype, data.mask.dtype
        (1, torch.float64, torch.bool)
    """

    scan: Any = DerivedScan()
    get_as_args: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    def __init__(  # noqa: PLR0917 - as CDTools has it
        self,
        entry_info: Mapping[str, Any] | None = None,
        sample_info: Mapping[str, Any] | None = None,
        wavelength: Any = None,
        detector_geometry: Mapping[str, Any] | None = None,
        mask: Any = None,
        qe_mask: Any = None,
        background: Any = None,
    ):
        self.entry_info = copy(entry_info)
        self.sample_info = copy(sample_info)
        self.wavelength = wavelength
        self.detector_geometry = copy(detector_geometry)
        self.mask = _clone(mask, torch.bool)
        self.qe_mask = _clone(qe_mask, torch.float32)
        self.background = _clone(background, torch.float32)

    def to(self, *args: Any, **kwargs: Any) -> None:
        """Move what is stored, with the arguments of ``torch.Tensor.to``; a mask stays of its type."""
        check_device("dataset.to", *args, **kwargs)
        for name in ("qe_mask", "background"):
            if getattr(self, name) is not None:
                setattr(self, name, getattr(self, name).to(*args, **kwargs))
        if self.mask is not None:
            self.mask = self.mask.to(*args, **kwargs).to(torch.bool)

    def get_as(self, *args: Any, **kwargs: Any) -> None:
        """Have ``dataset[index]`` on a device, or of a type; the rest stays where it is."""
        check_device("dataset.get_as", *args, **kwargs)
        self.get_as_args = (args, kwargs)

    def __len__(self) -> int:
        """Number of patterns."""
        place = f"{type(self).__name__}.__len__"
        raise BadInput(place, None, "is not written: return the number of patterns")

    def __getitem__(self, index: Any) -> tuple[tuple[Any, ...], Tensor]:
        """Inputs and pattern of an index, where `get_as` wants them."""
        inputs, pattern = self._load(index)
        args, kwargs = self.get_as_args
        if not (args or kwargs):
            return tuple(inputs), pattern
        moved = tuple(one.to(*args, **kwargs) if isinstance(one, Tensor) else one for one in inputs)
        return moved, pattern.to(*args, **kwargs)

    def _load(self, index: Any) -> tuple[Any, Tensor]:
        """``((inputs ...), pattern)`` of a number or a slice, as stored."""
        fix = "is not written: return ((inputs ...), pattern) of an index"
        raise BadInput(f"{type(self).__name__}._load", None, fix)

    @classmethod
    def from_cxi(cls, cxi_file: str | os.PathLike[str] | h5py.File) -> Any:
        """All but translations and patterns of a CXI file, its path or the open file."""
        if isinstance(cxi_file, h5py.File):
            info = {
                "entry_info": cxi_items.get_entry_info(cxi_file),
                "sample_info": cxi_items.get_sample_info(cxi_file),
            }
            return cls(**info, **cxi_items.read_optics(cxi_file))
        with h5py.File(cxi_file, "r") as file:
            return cls.from_cxi(file)

    def to_cxi(self, cxi_file: str | os.PathLike[str] | h5py.File) -> None:
        """Write what a `CDataset` holds to a path, which becomes a new file, or into an open file."""
        if not isinstance(cxi_file, h5py.File):
            with cxi_items.create_cxi(cxi_file) as file:
                self.to_cxi(file)
            return
        cxi_items.add_items(cxi_file, vars(self))

    def inspect(self, *args: Any, **kwargs: Any) -> Any:
        """A figure of the data."""
        raise BadInput(f"{type(self).__name__}.inspect", None, "is not written: draw what the data are")


def check_dataset(place: str, dataset: Any) -> CDataset:
    """The dataset of a call."""
    if not isinstance(dataset, CDataset):
        fix = "is not a dataset: give one of CDTools.datasets of phaseloom.compat, in its place"
        raise BadInput(f"{place}: dataset", dataset, fix)
    return dataset


def to_scan(
    translations: Any,
    patterns: Any,
    *,
    wavelength: Any,
    detector_geometry: Any,
    mask: Any = None,
    **more: Any,
) -> Scan4D:
    """The scan of arrays in CDTools' units; pixels that are NaN are masked.

    Raises:
        BadInput: arrays that are not data of an experiment; the sentence names them.
    """
    counts, finite = clean_patterns(patterns)
    geometry = to_geometry(
        detector_geometry, check_wavelength(wavelength) / METRES_PER_ANGSTROM, counts.shape[1:]
    )
    good = finite if mask is None else to_table("mask", mask)
    if good.shape != finite.shape:
        raise BadInput("mask", good.shape, f"must have the shape of a pattern, {finite.shape}")
    names = {"background": "background", "flat": "qe_mask", "weights": "intensities"}
    arrays = {ours: to_table(name, more[name]) for ours, name in names.items() if more.get(name) is not None}
    return Scan4D(
        counts=counts,
        geometry=geometry,
        mask=finite & good.astype(bool),
        **arrays,
        **to_positions(translations, geometry),
    )


def clean_patterns(patterns: Any) -> tuple[np.ndarray, np.ndarray]:
    """A copy of patterns ``(n, y, x)`` without NaN, and the mask of pixels that are finite in all.

    Raises:
        BadInput: not a stack of real numbers, or a pattern without a finite number.
    """
    counts = np.array(to_table("patterns", patterns))
    if counts.ndim != 3 or not counts.size:
        raise BadInput("patterns", counts.shape, "must be (n, y, x), with one pattern or more")
    if counts.dtype.kind == "f":
        lost = [number for number, pattern in enumerate(counts) if not np.isfinite(pattern).any()]
        if lost:
            some = ", ".join(map(str, lost[:8])) + (" ..." if len(lost) > 8 else "")
            raise BadInput("patterns", None, f"of the number {some} hold no finite number: remove them")
    cleaned, finite = clean_counts(counts, "patterns")
    return np.asarray(cleaned), finite


def to_table(place: str, values: Any) -> np.ndarray:
    """An array of real numbers.

    Raises:
        BadInput: text, complex numbers, or rows of different lengths.
    """
    try:
        table = to_array(values)
    except ValueError:
        raise BadInput(place, None, "must be numbers in rows of the same length") from None
    if table is None or table.dtype.kind not in "buif":
        kind = None if table is None else table.dtype.name
        raise BadInput(place, kind, "is not an array of real numbers")
    return table


def check_wavelength(wavelength: Any) -> float:
    """A wavelength in metres.

    Raises:
        BadInput: none, or one that no photon or electron in use has.
    """
    try:
        metres = float(wavelength)
    except (TypeError, ValueError):
        raise BadInput("wavelength", wavelength, "is needed in metres: 1.4e-10 for example") from None
    if not SHORTEST_WAVELENGTH <= metres <= LONGEST_WAVELENGTH:
        fix = f"is not a wavelength in metres: give {SHORTEST_WAVELENGTH:g} to {LONGEST_WAVELENGTH:g}"
        raise BadInput("wavelength", metres, fix)
    return metres


def check_device(place: str, *args: Any, **kwargs: Any) -> torch.device | None:
    """The device among arguments of ``torch.Tensor.to``, or ``None``.

    Raises:
        BadInput: it is not here, or not a device.
    """
    named = args[0] if args and isinstance(args[0], str | int | torch.device) else None
    device = kwargs.get("device", named)
    if device is None:
        return None
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError):
        raise BadInput(f"{place}: device", device, "is not a device: write 'cpu' or 'cuda'") from None
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"{place}: device", str(device), "is not on this machine: write device='cpu'")
    return wanted


def to_positions(translations: Any, geometry: Geometry) -> dict[str, Any]:
    """``positions`` and ``heights`` in angstrom; no heights where all are the same."""
    table = to_table("translations", translations).astype(float)
    if table.ndim != 2 or table.shape[1] not in (2, 3):
        raise BadInput("translations", table.shape, "must be (n, 3): x, y, z of the beam in metres")
    if table.shape[1] == 2:
        table = np.column_stack([table, np.zeros(len(table))])
    positions, heights = tilted_sample.project_beam(
        table / METRES_PER_ANGSTROM, geometry.basis, geometry.normal
    )
    return {"positions": positions, "heights": heights if np.ptp(heights) > SMALLEST_HEIGHT_RANGE else None}


def to_translations(positions: np.ndarray, heights: np.ndarray | None, geometry: Geometry) -> np.ndarray:
    """Motion of the beam ``(n, 3)`` in metres, as CDTools has it; files hold that of the sample."""
    return 0.0 - cxi.compute_sample_motion(positions, heights, geometry)


def to_geometry(given: Mapping[str, Any], wavelength: float, shape: Any) -> Geometry:
    """Angles and directions of a detector in metres, and a wavelength in angstrom."""
    if not isinstance(given, Mapping):
        raise BadInput("detector_geometry", given, "is needed: a dict of distance and basis (3, 2), metres")
    missing = [name for name in ("distance", "basis") if given.get(name) is None]
    if missing:
        raise BadInput("detector_geometry", None, f"lacks {' and '.join(missing)}: give metres")
    basis = to_table("detector_geometry: basis", given["basis"]).astype(float)
    distance = float(to_table("detector_geometry: distance", given["distance"]).reshape(-1)[0])
    sizes = np.linalg.norm(basis, axis=0) if basis.shape == (3, 2) else np.zeros(1)
    if not (np.isfinite(sizes).all() and (sizes > 0).all() and distance > 0):
        raise BadInput("detector_geometry", given, "must have a distance in metres and a basis (3, 2)")
    return Geometry(
        wavelength=wavelength,
        shape=(int(shape[0]), int(shape[1])),
        angle=(float(sizes[0] / distance), float(sizes[1] / distance)),
        distance=distance / METRES_PER_ANGSTROM,
        basis=tuple((float(a), float(b)) for a, b in basis / sizes),
    )


def to_array(values: Any) -> Any:
    """An array of a tensor or of anything; ``None`` stays."""
    if values is None:
        return None
    return values.detach().cpu().resolve_conj().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _clone(values: Any, dtype: torch.dtype) -> Tensor | None:
    return None if values is None else torch.as_tensor(values).detach().to(dtype).clone()
