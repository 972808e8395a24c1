"""Atoms as electrons see them: scattering factors, projected potentials, thermal motion.

The projected potential of a periodic box is summed in Fourier space, where an atom at any place is an exact
phase factor: nothing is interpolated, so a shift of the atoms shifts the potential and changes nothing else.
"""

import importlib.resources
import io
import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from phaseloom.errors import BadInput

__all__ = ["VOLT_AREA", "Table", "assign_slices", "displace_atoms", "project_potential"]
__all__ += ["scattering_factor", "smooth_edge"]

Table = Literal["lobato", "kirkland"]

VOLT_AREA = 47.877645
"""Volt square angstrom by which a scattering factor in angstrom becomes a potential, h^2 / (2 pi m e)."""


def scattering_factor(
    number: int, k: Float[np.ndarray, "*shape"], /, *, table: Table = "lobato"
) -> Float[np.ndarray, "*shape"]:
    """Electron scattering factor of a neutral atom in first Born approximation, angstrom.

    Args:
        number: atomic number, 1 to 103.
        k: spatial frequency in cycles per angstrom (1 / spacing, not half of it).
        table: ``lobato`` (five terms, right at all angles) or ``kirkland``.

    Raises:
        BadInput: an element that the tables do not have.

    Source:
        Lobato & Van Dyck 2014, doi 10.1107/S205327331401643X; Kirkland 2010, doi 10.1007/978-1-4419-6533-2.

    Example:
        >>> scattering_factor(38, np.array([0.0, 1.0])).round(2).tolist()
        [13.11, 1.74]
    """
    values = _table(table).get(number)
    if values is None:
        raise BadInput(
            "scattering_factor: number", number, "is not an element of the tables: they have 1 to 103"
        )
    square = np.asarray(k, np.float64)[..., None] ** 2
    if table == "lobato":
        a = values[:5]
        b = values[5:]
        return (a * (2 + b * square) / (1 + b * square) ** 2).sum(-1)
    a, b, c, d = values.reshape(4, 3)
    return (a / (square + b) + c * np.exp(-d * square)).sum(-1)


def project_potential(
    places: Float[Tensor, "atom 2"],
    numbers: Int[Tensor, " atom"],
    shape: tuple[int, int],
    pixel: tuple[float, float],
    /,
    *,
    table: Table = "lobato",
    vibration: float = 0.0,
    band: float = 1.0,
    taper: float = 0.0,
) -> Float[Tensor, "y x"]:
    """Projected potential of a periodic box, volt angstrom: ``sum_Z f_Z(k) sum_j exp(-2 pi i k r_j)``.

    Frequencies outside a disk are left out, so that atoms look alike wherever they stand.

    Args:
        places: (y, x) of each atom, angstrom; the precision of the result, phases being made in double.
        numbers: atomic numbers.
        shape: pixels of the box (y, x).
        pixel: angstrom (y, x).
        table: see `scattering_factor`.
        vibration: rms displacement along each axis, angstrom, over which the potential is averaged
            (Debye-Waller factor).
        band: radius of the disk, in units of the smaller Nyquist frequency.
        taper: width of its edge, a quarter of a cosine, in the same units; outwards from ``band``.

    Raises:
        BadInput: an unknown element.

    Example:
        >>> one = project_potential(torch.tensor([[1.6, 1.6]]), torch.tensor([38]), (8, 8), (0.4, 0.4))
        >>> one.argmax().item() == 4 * 8 + 4
        True
    """
    half = places.new_zeros(shape[0], shape[1] // 2 + 1)
    total = torch.complex(half, half)
    for number in torch.unique(numbers).tolist():
        rows, columns = _phases(places[numbers == number], shape, pixel)
        factor = _factor(int(number), shape, pixel, table, (vibration, band, taper))
        total += (rows.T @ columns) * factor.to(places)
    area = shape[0] * shape[1] * pixel[0] * pixel[1]
    return torch.fft.irfft2(total, s=shape, norm="forward") * (VOLT_AREA / area)


def assign_slices(heights: Float[Tensor, " atom"], thickness: float, count: int, /) -> Int[Tensor, " atom"]:
    """Number of the slice that each atom belongs to, of ``count`` equal ones over a thickness.

    Atoms outside (displaced by heat, say) belong to the first or the last slice: none is lost.

    Example:
        >>> assign_slices(torch.tensor([-0.1, 0.0, 4.9, 5.0, 10.0]), 10.0, 2).tolist()
        [0, 0, 0, 1, 1]
    """
    if not thickness > 0 or count < 1:
        raise BadInput("slabs", f"{count} slices of {thickness} A", "needs a thickness and a slice at least")
    return (heights * (count / thickness)).floor().long().clamp(0, count - 1)


def displace_atoms(
    places: Float[Tensor, "atom axis"], rms: Float[Tensor, " atom"] | float, /, *, generator: torch.Generator
) -> Float[Tensor, "atom axis"]:
    """Places at one instant of thermal motion (frozen phonon): normal, independent, ``rms`` along each axis.

    Source:
        Loane, Xu & Silcox 1991, doi 10.1107/S0108767391000375.

    Example:
        >>> displace_atoms(torch.zeros(2, 3), 0.1, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3])
    """
    wander = torch.randn(places.shape, generator=generator, dtype=places.dtype, device=places.device)
    spread = rms[:, None] if isinstance(rms, Tensor) else rms
    return places + spread * wander


def smooth_edge(k: Float[Tensor, "*shape"], radius: float, width: float, /) -> Float[Tensor, "*shape"]:
    """A disk of a radius: 1 inside, falling like half a cosine over ``width`` outside of it.

    Example:
        >>> smooth_edge(torch.tensor([0.5, 1.0, 2.0, 3.0, 4.0]), 1.0, 2.0).round(decimals=3).tolist()
        [1.0, 1.0, 0.5, 0.0, 0.0]
    """
    if width <= 0:
        return (k <= radius).to(k.dtype)
    share = ((k - radius) / width).clamp(0, 1)
    return 0.5 * (1 + torch.cos(math.pi * share)) * (share < 1)


def _phases(places: Tensor, shape: tuple[int, int], pixel: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """``exp(-2 pi i k r)`` of both axes, (atom, frequency), half of the frequencies along x."""
    half = []
    for axis in (0, 1):
        turns = places[:, axis].double() / (shape[axis] * pixel[axis])
        order = torch.arange(shape[axis] // 2 + 1, device=places.device, dtype=torch.float64)
        cycles = turns[:, None] * order
        angle = ((cycles.round() - cycles) * (2 * math.pi)).to(places.dtype)
        half.append(torch.polar(torch.ones_like(angle), angle))
    rows, columns = half
    rest = shape[0] - rows.shape[1]
    return torch.cat([rows, rows[:, 1 : rest + 1].flip(1).conj()], 1), columns


@lru_cache(maxsize=512)
def _factor(
    number: int, shape: tuple[int, int], pixel: tuple[float, float], table: Table, cut: tuple[float, ...]
) -> Tensor:
    """Scattering factor on the half grid, with thermal smearing, inside a disk: see `project_potential`."""
    vibration, band, taper = cut
    y = np.fft.fftfreq(shape[0], pixel[0])[:, None]
    x = np.fft.rfftfreq(shape[1], pixel[1])[None]
    k = np.hypot(y, x)
    nyquist = 0.5 / max(pixel)
    disk = smooth_edge(torch.from_numpy(k), band * nyquist * (1 - 1e-9), taper * nyquist)
    smear = np.exp(-2 * (np.pi * vibration * k) ** 2)
    return torch.from_numpy(scattering_factor(number, k, table=table) * smear) * disk


@lru_cache(maxsize=2)
def _table(name: str) -> dict[int, np.ndarray]:
    file = importlib.resources.files("phaseloom.physics") / "tables" / f"{name}.txt"
    rows = np.loadtxt(io.StringIO(file.read_text(encoding="utf-8")))
    return {int(row[0]): row[1:] for row in rows}
