"""CDTools' base of datasets, which users write their own on, and how what they hold becomes a `Scan4D`."""

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
from phaseloom.data.formats.arrays import clean
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics import tilted_sample as surface

__all__ = [
    "ANGSTROM",
    "CDataset",
    "array",
    "counted",
    "device_of",
    "geometry_of",
    "moved",
    "scan_of",
    "table_of",
]
__all__ += ["travel", "wave_of"]

ANGSTROM = 1e-10
"""Metres."""

SHORTEST, LONGEST = 1e-13, 1e-3
"""Metres: electrons of 10 MeV, and far infrared light."""

Parts = dict[str, Any]


class Derived:
    """The `Scan4D` of what a dataset holds; a scan that is set takes its place."""

    def __get__(self, owner: "CDataset | None", kind: type | None = None) -> Any:
        """The scan as it is now."""
        if owner is None:
            return self
        found = {name: getattr(owner, name, None) for name in ("translations", "patterns", *HELD)}
        missing = [name for name in ("translations", "patterns", *HELD[:2]) if found[name] is None]
        if missing:
            fix = f"has no {', '.join(missing)}: set them, or fit a model of your own to it"
            raise BadInput(type(owner).__name__, None, fix)
        return scan_of(found.pop("translations"), found.pop("patterns"), **found)


HELD = ("wavelength", "detector_geometry", "mask", "background", "qe_mask", "intensities")


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
        scan: a `Scan4D` of a dataset that has ``translations`` and ``patterns``, for models that are ready.
        get_as_args: what `get_as` was called with, (args, kwargs); empty: items come as they are stored.

    Args:
        entry_info: see above, also for the others.
        sample_info: see above.
        wavelength: see above.
        detector_geometry: see above.
        mask: see above.
        qe_mask: see above.
        background: see above.

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

    scan: Any = Derived()
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
        self.entry_info, self.sample_info = copy(entry_info), copy(sample_info)
        self.wavelength, self.detector_geometry = wavelength, copy(detector_geometry)
        self.mask = _copied(mask, torch.bool)
        self.qe_mask = _copied(qe_mask, torch.float32)
        self.background = _copied(background, torch.float32)

    def to(self, *args: Any, **kwargs: Any) -> None:
        """Move what is stored, with the arguments of ``torch.Tensor.to``; a mask stays of its type."""
        _device("dataset.to", args, kwargs)
        for name in ("qe_mask", "background"):
            if getattr(self, name) is not None:
                setattr(self, name, getattr(self, name).to(*args, **kwargs))
        if self.mask is not None:
            self.mask = self.mask.to(*args, **kwargs).to(torch.bool)

    def get_as(self, *args: Any, **kwargs: Any) -> None:
        """Have ``dataset[index]`` on a device, or of a type; the rest stays where it is."""
        _device("dataset.get_as", args, kwargs)
        self.get_as_args = (args, kwargs)

    def __len__(self) -> int:
        """Number of patterns."""
        raise BadInput(
            f"{type(self).__name__}.__len__", None, "is not written: return the number of patterns"
        )

    def __getitem__(self, index: Any) -> tuple[tuple[Any, ...], Tensor]:
        """Inputs and pattern of an index, where `get_as` wants them."""
        inputs, pattern = self._load(index)
        args, kwargs = self.get_as_args
        if not (args or kwargs):
            return tuple(inputs), pattern
        come = tuple(one.to(*args, **kwargs) if isinstance(one, Tensor) else one for one in inputs)
        return come, pattern.to(*args, **kwargs)

    def _load(self, index: Any) -> tuple[Any, Tensor]:
        """``((inputs ...), pattern)`` of a number or a slice, as stored."""
        fix = "is not written: return ((inputs ...), pattern) of an index"
        raise BadInput(f"{type(self).__name__}._load", None, fix)

    @classmethod
    def from_cxi(cls, cxi_file: str | os.PathLike[str] | h5py.File) -> Any:
        """All but translations and patterns of a CXI file, its path or the open file."""
        if not isinstance(cxi_file, h5py.File):
            with h5py.File(cxi_file, "r") as file:
                return cls.from_cxi(file)
        names = ("distance", "basis", "corner")
        return cls(
            entry_info=cxi_items.get_entry_info(cxi_file),
            sample_info=cxi_items.get_sample_info(cxi_file),
            wavelength=cxi_items.get_wavelength(cxi_file),
            detector_geometry=dict(zip(names, cxi_items.get_detector_geometry(cxi_file), strict=True)),
            mask=cxi_items.get_mask(cxi_file),
            qe_mask=cxi_items.get_qe_mask(cxi_file),
            background=cxi_items.get_dark(cxi_file),
        )

    def to_cxi(self, cxi_file: str | os.PathLike[str] | h5py.File) -> None:
        """Write what a `CDataset` holds to a path, which becomes a new file, or into an open file."""
        if not isinstance(cxi_file, h5py.File):
            with cxi_items.create_cxi(cxi_file) as file:
                self.to_cxi(file)
            return
        added = {
            "entry_info": cxi_items.add_entry_info,
            "sample_info": cxi_items.add_sample_info,
            "wavelength": cxi_items.add_source,
            "mask": cxi_items.add_mask,
            "qe_mask": cxi_items.add_qe_mask,
            "background": cxi_items.add_dark,
        }
        for name, add in added.items():
            if getattr(self, name) is not None:
                add(cxi_file, getattr(self, name))
        detector = self.detector_geometry
        if detector is not None:
            cxi_items.add_detector(cxi_file, detector["distance"], detector["basis"], detector.get("corner"))

    def inspect(self, *args: Any, **kwargs: Any) -> Any:
        """A picture of the data."""
        raise BadInput(f"{type(self).__name__}.inspect", None, "is not written: draw what the data are")


def scan_of(translations: Any, patterns: Any, **held: Any) -> Scan4D:
    """The scan of what a dataset holds (`HELD`), and of ``metadata``; pixels that are NaN are masked."""
    counts, trusted = counted(patterns)
    wavelength = wave_of(held["wavelength"]) / ANGSTROM
    geometry = geometry_of(held["detector_geometry"], wavelength, counts.shape[1:])
    mask = None if held.get("mask") is None else table_of("mask", held["mask"])
    if mask is not None and mask.shape != trusted.shape:
        raise BadInput("mask", mask.shape, f"must have the shape of a pattern, {trusted.shape}")
    more = {"background": "background", "flat": "qe_mask", "weights": "intensities"}
    given = {name: held.get(theirs) for name, theirs in more.items()}
    return Scan4D(
        counts=counts,
        geometry=geometry,
        mask=trusted if mask is None else trusted & mask.astype(bool),
        **{name: None if new is None else table_of(more[name], new) for name, new in given.items()},
        metadata=dict(held.get("metadata") or {}),
        **moved(translations, geometry),
    )


def counted(patterns: Any) -> tuple[np.ndarray, np.ndarray]:
    """A copy of patterns ``(n, y, x)`` without NaN, and the mask of pixels that can be trusted.

    Raises:
        BadInput: no stack of real numbers, or a pattern that holds none.
    """
    counts = np.array(table_of("patterns", patterns))
    if counts.ndim != 3 or not counts.size:
        raise BadInput("patterns", counts.shape, "must be (n, y, x), with one pattern or more")
    lost = (
        [] if counts.dtype.kind != "f" else [i for i, one in enumerate(counts) if not np.isfinite(one).any()]
    )
    if lost:
        some = ", ".join(map(str, lost[:8])) + (" ..." if len(lost) > 8 else "")
        raise BadInput("patterns", None, f"of the number {some} hold no finite number: remove them")
    cleaned, trusted = clean(counts, "patterns")
    return np.asarray(cleaned), trusted


def table_of(place: str, values: Any) -> np.ndarray:
    """An array of real numbers.

    Raises:
        BadInput: text, complex numbers, or rows of different lengths.
    """
    try:
        table = array(values)
    except ValueError:
        raise BadInput(place, None, "must be numbers in rows of the same length") from None
    if table is None or table.dtype.kind not in "buif":
        kind = None if table is None else table.dtype.name
        raise BadInput(place, kind, "is not what is needed: give an array of real numbers")
    return table


def wave_of(wavelength: Any) -> float:
    """A wavelength in metres.

    Raises:
        BadInput: none, or one that no photon or electron in use has.
    """
    try:
        found = float(wavelength)
    except (TypeError, ValueError):
        raise BadInput("wavelength", wavelength, "is needed in metres: 1.4e-10 for example") from None
    if not SHORTEST <= found <= LONGEST:
        fix = f"is no wavelength in metres: give one from {SHORTEST:g} to {LONGEST:g}"
        raise BadInput("wavelength", found, fix)
    return found


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
    table = table_of("translations", translations).astype(float)
    if table.ndim != 2 or table.shape[1] not in (2, 3):
        raise BadInput("translations", table.shape, "must be (n, 3): x, y, z of the beam in metres")
    table = np.column_stack([table, np.zeros(len(table))]) if table.shape[1] == 2 else table
    positions, heights = surface.landed(table / ANGSTROM, geometry.basis, geometry.normal)
    return {"positions": positions, "heights": heights if np.ptp(heights) > 1e-3 else None}


def travel(positions: np.ndarray, heights: np.ndarray | None, geometry: Geometry) -> np.ndarray:
    """Motion of the beam ``(n, 3)`` in metres, as CDTools has it; files hold that of the sample."""
    return 0.0 - cxi.motion(positions, heights, geometry)


def geometry_of(given: Mapping[str, Any], wavelength: float, shape: Any) -> Geometry:
    """Angles and directions of a detector in metres, and a wavelength in angstrom."""
    if not isinstance(given, Mapping):
        raise BadInput("detector_geometry", given, "is needed: a dict of distance and basis (3, 2), metres")
    missing = [name for name in ("distance", "basis") if given.get(name) is None]
    if missing:
        raise BadInput("detector_geometry", None, f"lacks {' and '.join(missing)}: give metres")
    basis = table_of("detector_geometry: basis", given["basis"]).astype(float)
    distance = float(table_of("detector_geometry: distance", given["distance"]).reshape(-1)[0])
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


def array(values: Any) -> Any:
    """An array of a tensor or of anything; ``None`` stays."""
    return (
        values.detach().cpu().numpy()
        if isinstance(values, Tensor)
        else None
        if values is None
        else (np.asarray(values))
    )


def _copied(values: Any, dtype: torch.dtype) -> Tensor | None:
    return None if values is None else torch.as_tensor(values).detach().to(dtype).clone()


def _device(place: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse a device that is not there."""
    wanted = kwargs.get("device", args[0] if args and isinstance(args[0], str | torch.device) else None)
    if wanted is not None:
        device_of(wanted, place)
