"""CDTools' ``tools.interactions``: where a translation falls on the object, and probe times object there.

Translations are the motion of the probe, ``(xyz)`` or ``(shot, xyz)`` in the unit of the basis; pixels are
``(row, column)`` of the window's corner. A single translation gives a single result. Gradients flow.
"""

import numpy as np
import torch
from torch import Tensor

from phaseloom.compat.cdtools.tools._shared import missing, tensor
from phaseloom.compat.cdtools.tools.image_processing import fourier_upsample
from phaseloom.compat.cdtools.tools.propagators import far_field, inverse_far_field
from phaseloom.errors import BadInput
from phaseloom.physics.fourier import fit_window, ramp, to_real, to_reciprocal
from phaseloom.physics.patches import gather

__all__ = [
    "RPI_interaction",
    "pixel_to_translations",
    "project_translations_to_sample",
    "ptycho_2D_linear",
    "ptycho_2D_round",
    "ptycho_2D_sinc",
    "translations_to_pixel",
]

__getattr__ = missing("interactions", __all__)

UPRIGHT = torch.tensor([0.0, 0.0, 1.0])
"""Normal of a sample across the beam."""


def translations_to_pixel(basis: Tensor, translations: Tensor, surface_normal: Tensor = UPRIGHT) -> Tensor:
    """Pixels on the object's grid: translations are projected along the beam onto the sample."""
    inverse = torch.linalg.pinv(tensor(basis)).to(translations)
    return _on_sample(translations, tensor(surface_normal).to(translations)) @ inverse.mT


def pixel_to_translations(
    basis: Tensor, pixel_translations: Tensor, surface_normal: Tensor = UPRIGHT
) -> Tensor:
    """The translations across the beam, z = 0, that `translations_to_pixel` takes to these pixels."""
    across = torch.eye(2, 3).to(pixel_translations)
    places = translations_to_pixel(basis.to(pixel_translations), across, surface_normal)
    return pixel_translations @ torch.linalg.inv(places) @ across


def project_translations_to_sample(sample_basis: Tensor, translations: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels on a tilted sample, and how far the wave flies from the probe's plane to it, ``(..., 1)``.

    A probe moved along the beam, +z, flies as much less.
    """
    normal = torch.linalg.cross(sample_basis[:, 1], sample_basis[:, 0]).to(translations)
    met = _on_sample(translations, normal)
    pixels = met @ torch.linalg.pinv(sample_basis).to(translations).mT
    return pixels, met[..., 2:] - translations[..., 2:]


def ptycho_2D_round(
    probe: Tensor,
    obj: Tensor,
    translations: Tensor,
    multiple_modes: bool = False,
    upsample_obj: bool = False,
) -> Tensor:
    """Exit waves at the nearest whole pixels: ``(shot, y, x)``, or ``(shot, mode, y, x)``.

    With ``upsample_obj`` the object's pixels are twice those of the probe.
    """
    places = _as_list(translations)
    y, x = (n // 2 if upsample_obj else n for n in probe.shape[-2:])
    windows = _windows(obj, places.round(), (y, x))
    windows = fourier_upsample(windows, preserve_mean=True) if upsample_obj else windows
    waves = probe * (windows[:, None] if multiple_modes else windows)
    return waves[0] if translations.ndim == 1 else waves


def ptycho_2D_linear(probe: Tensor, obj: Tensor, translations: Tensor, shift_probe: bool = True) -> Tensor:
    """Exit waves ``(shot, y, x)``, parts of a pixel by bilinear interpolation of the probe (in a circle).

    Without ``shift_probe``, of the object the other way.
    """
    places = _as_list(translations)
    whole = places.floor()
    y, x = (places - whole).unsqueeze(-1).unsqueeze(-1).unbind(1)
    size = (probe.shape[0], probe.shape[1])
    corners = [(0, 0, (1 - y) * (1 - x)), (0, 1, (1 - y) * x), (1, 0, y * (1 - x)), (1, 1, y * x)]
    if shift_probe:
        moved = sum(share * probe.roll((dy, dx), (0, 1)) for dy, dx, share in corners)
        waves = moved * _windows(obj, whole, size)
    else:
        wide = _windows(torch.nn.functional.pad(obj, (0, 1, 0, 1)), whole, (size[0] + 1, size[1] + 1))
        waves = probe * sum(w * wide[:, dy : dy + size[0], dx : dx + size[1]] for dy, dx, w in corners)
    return waves[0] if translations.ndim == 1 else waves


def ptycho_2D_sinc(  # noqa: PLR0917 -- CDTools' arguments
    probe: Tensor,
    obj: Tensor,
    translations: Tensor,
    shift_probe: bool = True,
    padding: int = 10,
    multiple_modes: bool = True,
    probe_support: Tensor | None = None,
    shift_back_ew: bool = False,
) -> Tensor:
    """Exit waves, the part of a pixel by a phase ramp in the probe's Fourier space (in a circle).

    ``probe`` is ``(mode, y, x)``, or ``(y, x)`` without ``multiple_modes``; each shot may have its own.
    ``obj`` is ``(y, x)``, or ``(mode, y, x)`` for a mode of the object with each of the probe.
    ``shift_back_ew`` moves the exit waves back to where the probe was; ``padding`` and ``probe_support`` have
    no effect, as in CDTools.
    """
    if not shift_probe:
        raise BadInput(
            "ptycho_2D_sinc.shift_probe", False, "is not supported, nor in CDTools: move the probe"
        )
    places = _as_list(translations)
    whole = places.floor()
    rest = (places - whole).to(probe.real.dtype)
    windows = _windows(obj, whole, (probe.shape[-2], probe.shape[-1]))
    rows, columns = ramp(rest[:, None] if multiple_modes else rest, (probe.shape[-2], probe.shape[-1]))
    light = to_real(to_reciprocal(probe) * rows * columns)
    waves = light * (windows[:, None] if multiple_modes and windows.ndim == 3 else windows)
    if shift_back_ew:
        waves = to_real(to_reciprocal(waves) * rows.conj() * columns.conj())
    return waves[0] if translations.ndim == 1 else waves


def RPI_interaction(probe: Tensor, obj: Tensor) -> Tensor:
    """Exit wave of a probe and an object of fewer pixels in the same field, interpolated by `far_field`.

    The probe is ``(y, x)`` or ``(mode, y, x)``; an object ``(..., v, u)`` adds its axes before those of the
    probe.
    """
    fine = (probe.shape[-2], probe.shape[-1])
    scale = np.sqrt(fine[0] * fine[1] / (obj.shape[-2] * obj.shape[-1]))
    window = scale * inverse_far_field(fit_window(far_field(obj), fine))
    return probe[None] * window if obj.ndim >= 3 else probe * window


def _on_sample(translations: Tensor, normal: Tensor) -> Tensor:
    """Where lines along the beam through translations meet the plane of the sample."""
    across = translations[..., :2]
    height = -(across @ (normal[:2] / normal[2]))
    return torch.cat([across, height[..., None]], -1)


def _as_list(translations: Tensor) -> Tensor:
    return translations[None] if translations.ndim == 1 else translations


def _windows(obj: Tensor, corner: Tensor, shape: tuple[int, int]) -> Tensor:
    """Windows of an object at whole pixels, ``(shot, ..., y, x)``; all must lie in it."""
    place = corner.detach().long()
    low = place.amin(0).tolist()
    high = place.amax(0).tolist()
    size = obj.shape[-2:]
    if min(low) < 0 or any(h + w > n for h, w, n in zip(high, shape, size, strict=True)):
        fix = f"reach beyond the object of {size[0]}x{size[1]}: see initializers.calc_object_setup"
        raise BadInput("interactions.translations", f"{low} to {high}", fix)
    return gather(obj, place, shape)
