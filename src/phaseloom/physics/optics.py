"""Wavelengths, aberrations and apertures of electrons and photons.

The pupil of a probe is ``A(q) exp(-i chi(q))`` with, in Krivanek's notation,

``chi = 2 pi / wavelength * sum_nm  alpha^(n+1) / (n+1) * C_nm cos(m (phi - phi_nm))``,

``alpha`` the angle to the axis in radian, ``phi`` measured from the +x (column) to the +y (row) axis.
``C10 = -defocus``: a positive defocus is under-focus, the cross-over lies behind the entrance plane
(doi 10.1016/S0304-3991(99)00013-3).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from phaseloom.errors import BadInput, nearest
from phaseloom.physics.fourier import frequencies, shift_to_centre, to_real
from phaseloom.units import ELECTRON_REST_ENERGY, electron_wavelength, photon_wavelength

__all__ = [
    "aberration_change",
    "aberration_phase",
    "aberration_polynomial",
    "aperture",
    "coefficients",
    "electron_wavelength",
    "interaction",
]
__all__ += ["photon_wavelength", "probe_wave", "split_aberration_change"]
__all__ += ["tabulate_aberration_change", "to_cartesian", "to_polar"]

_ORDERS = [(1, 0), (1, 2), (2, 1), (2, 3), (3, 0), (3, 2), (3, 4), (4, 1), (4, 3), (4, 5)]
_ORDERS += [(5, 0), (5, 2), (5, 4), (5, 6)]
_POLAR = {f"C{n}{m}": (n, m) for n, m in _ORDERS}
_ALIASES = {"Cs": "C30", "C1": "C10", "C3": "C30", "C5": "C50", "astigmatism": "C12", "coma": "C21"}
_ALIASES |= {"trefoil": "C23", "quadrafoil": "C34", "A1": "C12", "A2": "C23", "B2": "C21", "A3": "C34"}
_ALIASES |= {f"{name}_angle": f"phi{key[1:]}" for name, key in list(_ALIASES.items()) if key[2] != "0"}
_SCALED = {"B2": 3.0}


def interaction(energy: float, /) -> float:
    """Phase in radian per volt and angstrom of projected potential, for electrons of ``energy`` eV.

    Example:
        >>> round(interaction(80e3) * 1e3, 4)
        1.0087
    """
    rest = ELECTRON_REST_ENERGY
    return 2 * math.pi / (electron_wavelength(energy) * energy) * (rest + energy) / (2 * rest + energy)


def coefficients(named: Mapping[str, float], /) -> dict[str, float]:
    """Aberrations in polar Krivanek form ``C10, C12, phi12 ...`` from any of the common spellings.

    Understands ``defocus`` (= -C10), ``Cs``, ``astigmatism``, ``coma``, ``trefoil``, ``A1 B2 A2 A3``
    (Haider: B2 = C21 / 3) with ``..._angle``, and the cartesian ``C12a, C12b``. Lengths in angstrom,
    angles in radian.

    Raises:
        BadInput: a name that means no aberration.

    Example:
        >>> coefficients({"defocus": 100.0, "Cs": 1e4})
        {'C10': -100.0, 'C30': 10000.0}
    """
    polar: dict[str, float] = {}
    cartesian: dict[str, float] = {}
    known = [*_POLAR, *_ALIASES, "defocus", *(f"phi{k[1:]}" for k in _POLAR)]
    for name, value in named.items():
        key = _ALIASES.get(name, name)
        if name == "defocus":
            polar["C10"] = -value
        elif key in _POLAR or (key.startswith("phi") and f"C{key[3:]}" in _POLAR):
            polar[key] = value * _SCALED.get(name, 1.0)
        elif key[:-1] in _POLAR and key[-1] in "ab":
            cartesian[key] = value
        else:
            raise BadInput("aberrations", name, f"is not an aberration: {nearest(name, known)}")
    return polar | to_polar(cartesian)


def to_cartesian(polar: Mapping[str, float], /) -> dict[str, float]:
    """``C12, phi12`` as ``C12a = C12 cos(2 phi12)``, ``C12b = C12 sin(2 phi12)``; round ones stay."""
    out: dict[str, float] = {}
    for key, (_, m) in _POLAR.items():
        if key in polar and m == 0:
            out[key] = polar[key]
        elif key in polar:
            angle = m * polar.get(f"phi{key[1:]}", 0.0)
            out[key + "a"] = polar[key] * math.cos(angle)
            out[key + "b"] = polar[key] * math.sin(angle)
    return out


def to_polar(cartesian: Mapping[str, float], /) -> dict[str, float]:
    """Inverse of `to_cartesian`; magnitudes come out positive."""
    out: dict[str, float] = {}
    for key, (_, m) in _POLAR.items():
        if key in cartesian:
            out[key] = cartesian[key]
        a = cartesian.get(key + "a")
        b = cartesian.get(key + "b")
        if a is not None or b is not None:
            out[key] = math.hypot(a or 0.0, b or 0.0)
            out[f"phi{key[1:]}"] = math.atan2(b or 0.0, a or 0.0) / m
    return out


def aberration_phase(
    y: Float[Tensor, "*y"], x: Float[Tensor, "*x"], /, wavelength: float, polar: Mapping[str, float | Tensor]
) -> Tensor:
    """``chi`` in radian at frequencies ``(y, x)`` in cycles per angstrom, for polar coefficients.

    Coefficients may be tensors; the result is differentiable in them.
    """
    alpha = wavelength * torch.sqrt(y**2 + x**2)
    phi = torch.atan2(y.expand_as(alpha), x.expand_as(alpha))
    chi = torch.zeros_like(alpha)
    for key, (n, m) in _POLAR.items():
        if key in polar:
            angle = polar.get(f"phi{key[1:]}", 0.0)
            azimuth = torch.cos(m * (phi - angle)) if m else 1.0
            chi = chi + polar[key] * azimuth * alpha ** (n + 1) / (n + 1)
    return chi * (2 * math.pi / wavelength)


def aberration_polynomial(
    y: Float[Tensor, "*y"],
    x: Float[Tensor, "*x"],
    /,
    wavelength: float,
    cartesian: Mapping[str, float | Tensor],
) -> Tensor:
    """``chi`` in radian like `aberration_phase`, for cartesian coefficients ``C10, C12a, C12b ...``.

    A polynomial of the two frequencies, which is smooth on the axis too.

    Example:
        >>> y, x = torch.tensor([0.3]), torch.tensor([0.4])
        >>> named = coefficients({"C10": -50.0, "C12": 20.0, "phi12": 0.3, "C21": 900.0})
        >>> smooth = aberration_polynomial(y, x, 0.02, to_cartesian(named))
        >>> bool(torch.allclose(smooth, aberration_phase(y, x, 0.02, named), atol=1e-5))
        True
    """
    row = wavelength * y
    column = wavelength * x
    square = row * row + column * column
    chi = torch.zeros_like(square)
    for key, (n, m) in _POLAR.items():
        parts = [cartesian.get(key)] if m == 0 else [cartesian.get(f"{key}a"), cartesian.get(f"{key}b")]
        if all(part is None for part in parts):
            continue
        real, imaginary = torch.ones_like(square), torch.zeros_like(square)
        for _ in range(m):  # (column + i row)^m = alpha^m exp(i m phi)
            real, imaginary = real * column - imaginary * row, real * row + imaginary * column
        radial = square ** ((n + 1 - m) // 2) / (n + 1)
        for part, harmonic in zip(parts, (real, imaginary), strict=False):
            if part is not None:
                chi = chi + part * harmonic * radial
    return chi * (2 * math.pi / wavelength)


def aberration_change(
    k: Float[Tensor, "place 2"],
    q: Float[Tensor, "move 2"],
    /,
    wavelength: float,
    cartesian: Mapping[str, float | Tensor],
) -> Float[Tensor, "move place"]:
    """``chi(k + q) - chi(k)`` in radian for all places and all moves, in cycles per angstrom (y, x).

    ``chi`` is a polynomial, so that of a sum is a sum of products of powers of both: a product of two small
    matrices, exact, and differentiable in all four.

    Args:
        k: places.
        q: moves.
        wavelength: angstrom.
        cartesian: coefficients ``C10, C12a, C12b ...``, angstrom.

    Example:
        >>> k, q = torch.rand(5, 2).double(), torch.rand(3, 2).double()
        >>> named = {"C10": -50.0, "C12a": 20.0, "C21b": 900.0, "C30": 1e5}
        >>> moved = k + q[:, None]
        >>> after, before = (aberration_polynomial(*one.unbind(-1), 0.02, named) for one in (moved, k))
        >>> bool(torch.allclose(aberration_change(k, q, 0.02, named), after - before))
        True
    """
    of_q, of_k = split_aberration_change(k, q, wavelength, cartesian)
    return of_q @ of_k.T


def split_aberration_change(
    k: Float[Tensor, "place 2"],
    q: Float[Tensor, "move 2"],
    /,
    wavelength: float,
    cartesian: Mapping[str, float | Tensor],
) -> tuple[Float[Tensor, "move monomial"], Float[Tensor, "place monomial"]]:
    """The two matrices whose product, the second one transposed, is `aberration_change`; arguments as there.

    Only the first one depends on the coefficients.
    """
    names = tuple(name for name in cartesian if _find_orders(name))
    if not names:
        return k.new_zeros(len(q), 0), k.new_zeros(len(k), 0)
    table = _tabulate_powers(names, k.dtype)
    values = torch.stack([torch.as_tensor(cartesian[name], dtype=k.dtype) for name in names])
    monomials = (2 * math.pi / wavelength) * values @ table.monomials
    shared = monomials[table.index] * table.binomials  # (power of q, power of k)
    of_k, of_q = (_raise_to_powers(wavelength * one, table.powers) for one in (k, q))
    return of_q @ shared.to(k.device), of_k


def tabulate_aberration_change(
    names: tuple[str, ...], wavelength: float, /
) -> tuple[np.ndarray, np.ndarray] | None:
    """What `split_aberration_change` sums over coefficients: powers, and a table for each of them.

    Args:
        names: of cartesian coefficients.
        wavelength: angstrom.

    Returns:
        ``(monomial, 2)`` powers of an angle (y, x), and ``(coefficient, monomial of q, monomial of k)`` what
        an angstrom of a coefficient turns products of both by, radian; ``None`` with a name that is none.

    Example:
        >>> powers, table = tabulate_aberration_change(("C10",), 0.02)
        >>> table.shape == (1, len(powers), len(powers))
        True
    """
    if not names or any(_find_orders(name) is None for name in names):
        return None
    found = _tabulate_powers(names, torch.float64)
    monomials = (2 * math.pi / wavelength) * found.monomials.numpy()
    return found.powers, monomials[:, found.index.numpy()] * found.binomials.numpy()


@dataclass(frozen=True, eq=False)
class _Powers:
    """How coefficients of aberrations make a polynomial, and that of a sum.

    Attributes:
        powers: ``(monomial, 2)``, of y and x.
        monomials: ``(coefficient, monomial)``.
        index: ``(monomial of q, monomial of k)``, that of their product.
        binomials: how often it comes about; 0 where it is of too high an order, or without any q.
    """

    powers: np.ndarray
    monomials: Tensor
    index: Tensor
    binomials: Tensor


def _find_orders(name: str) -> tuple[int, int] | None:
    """Radial order and symmetry of a cartesian coefficient; ``None``: it is none."""
    return _POLAR.get(name) or (_POLAR.get(name[:-1]) if name[-1:] in ("a", "b") else None)


@lru_cache(maxsize=32)
def _tabulate_powers(names: tuple[str, ...], dtype: torch.dtype) -> _Powers:
    """The tables of some coefficients."""
    orders = [order for name in names if (order := _find_orders(name))]
    highest = max(n for n, _ in orders) + 1
    powers = [(i, j) for i in range(highest + 1) for j in range(highest + 1 - i)]
    number = {power: at for at, power in enumerate(powers)}
    monomials = np.zeros((len(names), len(powers)))
    for row, (name, (n, m)) in enumerate(zip(names, orders, strict=True)):
        for i in range(m + 1):  # (x + i y)^m, real or imaginary part
            turned = (1j**i).imag if name.endswith("b") else (1j**i).real
            half = (n + 1 - m) // 2
            for j in range(half + 1):  # (y^2 + x^2)^half
                power = (i + 2 * j, m - i + 2 * (half - j))
                monomials[row, number[power]] += (
                    round(turned) * math.comb(m, i) * math.comb(half, j) / (n + 1)
                )
    index = np.zeros((len(powers), len(powers)), dtype=int)
    binomials = np.zeros(index.shape)
    for (r, s), of_q in number.items():
        for (i, j), of_k in number.items():
            if r + s and (i + r, j + s) in number:
                index[of_q, of_k] = number[i + r, j + s]
                binomials[of_q, of_k] = math.comb(i + r, i) * math.comb(j + s, j)
    return _Powers(
        np.array(powers),
        torch.as_tensor(monomials, dtype=dtype),
        torch.as_tensor(index),
        torch.as_tensor(binomials, dtype=dtype),
    )


def _raise_to_powers(angle: Float[Tensor, "place 2"], powers: np.ndarray) -> Float[Tensor, "place monomial"]:
    """Monomials of angles (y, x)."""
    one = torch.ones_like(angle)
    ladder = [one]
    for _ in range(int(powers.max())):
        ladder.append(ladder[-1] * angle)
    steps = torch.stack(ladder)  # (power, place, 2)
    rows, columns = torch.as_tensor(powers.T).to(angle.device)
    return (steps[rows, :, 0] * steps[columns, :, 1]).T


def aperture(
    y: Float[Tensor, "*y"],
    x: Float[Tensor, "*x"],
    /,
    wavelength: float,
    semiangle: float | Tensor,
    *,
    soft: bool = False,
) -> Tensor:
    """Disk of a convergence semiangle (radian): 1 inside; ``soft`` spreads the edge over one pixel."""
    alpha = wavelength * torch.sqrt(y**2 + x**2)
    if not soft:
        return (alpha <= semiangle).to(alpha.dtype)
    step = wavelength * max(float(y.abs()[y != 0].min()), float(x.abs()[x != 0].min()))
    return torch.clamp((semiangle - alpha) / step + 0.5, 0, 1)


def probe_wave(
    shape: tuple[int, int],
    pixel: tuple[float, float],
    /,
    *,
    wavelength: float,
    semiangle: float,
    aberrations: Mapping[str, float] | None = None,
    soft: bool = False,
    dtype: torch.dtype = torch.complex64,
) -> Complex[Tensor, "y x"]:
    """A converging probe in the middle of its window, of unit power.

    Args:
        shape: window (y, x).
        pixel: angstrom (y, x).
        wavelength: angstrom.
        semiangle: aperture, radian.
        aberrations: any names that `coefficients` understands, angstrom and radian.
        soft: spread the aperture's edge over one pixel.
        dtype: complex64 or complex128.

    Example:
        >>> p = probe_wave((32, 32), (0.3, 0.3), wavelength=0.0418, semiangle=0.025)
        >>> round(p.abs().square().sum().item(), 5), p.abs().argmax().item() == 16 * 32 + 16
        (1.0, True)
    """
    y, x = frequencies(shape, pixel, like=torch.zeros(1, dtype=torch.float64))
    chi = aberration_phase(y, x, wavelength, coefficients(aberrations or {}))
    disk = aperture(y, x, wavelength, semiangle, soft=soft)
    wave = shift_to_centre(to_real(torch.polar(disk, -chi)))
    return (wave / wave.abs().square().sum().sqrt()).to(dtype)
