"""CDTools' models of thick samples: equal slices, each an object of its own."""

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch

from phaseloom.compat.cdtools.attributes import Part
from phaseloom.compat.cdtools.build import Options, affordable, experiment, refuse
from phaseloom.compat.cdtools.datasets import CDataset
from phaseloom.compat.cdtools.models import FancyPtycho
from phaseloom.compat.cdtools.oblique import lying
from phaseloom.compat.cdtools.validate import asked, data_of, number
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, nearest
from phaseloom.physics.fourier import fit_window
from phaseloom.ptycho import probes

__all__ = ["Multislice2DPtycho", "MultislicePtycho"]


class MultislicePtycho(FancyPtycho):
    """`FancyPtycho` through several slices with free flight between them, far or near field.

    The beam is moved to each position once, before the first slice; nothing flies behind the last one.

    Example:
        >>> from phaseloom.compat import cdtools as CDTools
        >>> detector = {"distance": 1.0, "basis": [[0, -1e-4], [-1e-4, 0], [0, 0]]}
        >>> places, counts = np.zeros((3, 3)), np.full((3, 8, 8), 9, np.uint16)
        >>> optics = {"wavelength": 1e-9, "detector_geometry": detector}
        >>> dataset = CDTools.datasets.Ptycho2DDataset(places, counts, **optics)
        >>> CDTools.models.MultislicePtycho.from_dataset(dataset, dz=1e-6, nz=2).obj.shape[:1]
        torch.Size([2])

    Attributes:
        obj: ``(slice, y, x)``, with states of the object before them where it has several.
    """

    obj: Any = Part((0,))

    @classmethod
    @asked
    def from_dataset(  # type: ignore[override]
        cls,
        dataset: CDataset,
        dz: float,
        nz: int,
        probe_shape: Any = None,
        *more: Any,
        propagator_fourier_crop: Any = None,
        **settings: Any,
    ) -> Any:
        """A model of equal slices, flat at first.

        Args:
            dataset: the data.
            dz: distance between slices, metres.
            nz: number of slices.
            probe_shape: not built.
            *more: the following in CDTools' order, `ORDER`.
            propagator_fourier_crop: not built.
            **settings: those of `FancyPtycho.from_dataset`.

        Raises:
            BadInput: what is not built, or cannot be meant.
        """
        settings = _named(ORDER, more, {"propagator_fourier_crop": propagator_fourier_crop, **settings})
        refuse(probe_shape=probe_shape, propagator_fourier_crop=settings.pop("propagator_fourier_crop"))
        options, scan = _thick(dz, nz, settings), _lying(dataset, settings)
        return cls(*experiment(scan, options), scan)


class Multislice2DPtycho(FancyPtycho):
    """`MultislicePtycho` lit by a lens, as in a scanning transmission electron microscope.

    In CDTools 0.3.2 it cannot be made.
    """

    obj: Any = Part((0,))

    @classmethod
    @asked
    def from_dataset(  # type: ignore[override]
        cls,
        dataset: CDataset,
        dz: float,
        nz: int,
        probe_convergence_semiangle: float,
        *,
        propagation_distance: float | None = None,
        replicate_slice: bool = False,
        **settings: Any,
    ) -> Any:
        """A model of equal slices, flat at first, and a probe from an aperture.

        Args:
            dataset: the data.
            dz: distance between slices, metres.
            nz: number of slices.
            probe_convergence_semiangle: half-angle of the aperture, radian.
            propagation_distance: metres that the focused probe has flown on to the sample.
            replicate_slice: not built.
            **settings: those of `FancyPtycho.from_dataset`.

        Raises:
            BadInput: what is not built, or cannot be meant.
        """
        refuse(replicate_slice=replicate_slice)
        options = _thick(dz, nz, settings)
        lens = {"semiangle": probe_convergence_semiangle, "modes": options.n_modes}
        defocus = 0.0 if propagation_distance is None else -propagation_distance * 1e10
        scan = _lying(dataset, settings)
        affordable("oversampling", np.multiply(scan.geometry.shape, options.oversampling), options)
        start = probes.focused(scan, defocus=defocus, **lens).modes().detach()
        return cls(*experiment(scan, options, _wide(start, options)), scan)


ORDER = ("randomize_ang", "n_modes", "n_obj_modes", "dm_rank", "translation_scale", "saturation")
ORDER += ("probe_support_radius", "probe_fourier_crop", "propagator_fourier_crop", "propagation_distance")
ORDER += ("scattering_mode", "oversampling", "fourier_probe", "loss", "units", "simulate_probe_translation")
ORDER += ("simulate_finite_pixels", "obj_view_crop", "obj_padding", "exponentiate_obj", "panel_plot_mode")
ORDER += ("plot_level",)
"""Arguments of CDTools' `MultislicePtycho.from_dataset` after ``probe_shape``."""


def _named(order: tuple[str, ...], more: tuple[Any, ...], settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, of which some were given by their place."""
    placed = dict(zip(order, more, strict=False))
    twice = [name for name in placed if settings.get(name) is not None]
    if len(more) > len(order) or twice:
        fix = f"must each be given once: after probe_shape come {', '.join(order)}"
        raise BadInput("from_dataset: arguments", ", ".join(twice) or len(more), fix)
    return {**settings, **placed}


def _lying(dataset: CDataset, settings: Mapping[str, Any]) -> Scan4D:
    how = (settings.get("scattering_mode"), settings.get("surface_normal"))
    return lying(data_of("from_dataset", dataset).scan, *how)


def _thick(dz: float, nz: int, settings: Mapping[str, Any]) -> Options:
    """Options of so many slices; a single one needs no distance."""
    if not (number("from_dataset: dz", dz) > 0 or nz == 1):
        raise BadInput("from_dataset: dz", dz, "must be a distance above zero, in metres")
    known = set(inspect.signature(FancyPtycho.from_dataset).parameters) - {"dataset"}
    for name in settings:
        if name not in known:
            raise BadInput("from_dataset", name, f"is no argument: {nearest(name, sorted(known))}")
    mine = {field.name for field in fields(Options)}
    return Options(nz=nz, dz=float(dz), **{name: value for name, value in settings.items() if name in mine})


def _wide(modes: torch.Tensor, options: Options) -> torch.Tensor:
    """Modes with dark room around them where the window is larger for oversampling."""
    factor = options.oversampling
    return fit_window(modes, (factor * modes.shape[-2], factor * modes.shape[-1]))
