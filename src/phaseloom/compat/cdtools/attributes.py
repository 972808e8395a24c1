"""Attributes of CDTools' ready models in its shapes and units: our parameters without empty axes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from phaseloom.compat.cdtools import saved
from phaseloom.compat.cdtools.base import CDIModel, Told, unwritten
from phaseloom.compat.cdtools.data import ANGSTROM, travel
from phaseloom.compat.cdtools.likelihood import parts
from phaseloom.compat.cdtools.tools import losses
from phaseloom.errors import BadInput

__all__ = ["Described", "Lent", "Part", "within"]


class Lent(Tensor):
    """A parameter without axes of length one: the same numbers, gradient and ``requires_grad``.

    Example:
        >>> parameter = nn.Parameter(torch.ones(1, 1, 2, 2))
        >>> lent = Lent.of(parameter, (2, 2))
        >>> lent.data[0, 0], lent.requires_grad = 5.0, False
        >>> float(parameter[0, 0, 0, 0].detach()), parameter.requires_grad
        (5.0, False)
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    owner: nn.Parameter

    @classmethod
    def of(cls, parameter: nn.Parameter, shape: tuple[int, ...]) -> "Lent":
        """The parameter in a shape of as many numbers."""
        lent = parameter.view(shape).as_subclass(cls)
        lent.owner = parameter
        return lent

    @property
    def requires_grad(self) -> bool:  # type: ignore[override]
        """Whether the parameter is free."""
        return self.owner.requires_grad

    @requires_grad.setter
    def requires_grad(self, free: bool) -> None:
        self.owner.requires_grad = free

    def requires_grad_(self, mode: bool = True) -> "Lent":
        """Free or freeze the parameter."""
        self.owner.requires_grad_(mode)
        return self

    @property
    def grad(self) -> Tensor | None:  # type: ignore[override]
        """The parameter's gradient, in this shape."""
        return None if self.owner.grad is None else self.owner.grad.view(self.shape)

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        self.owner.grad = None if value is None else value.view(self.owner.shape)

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        """The numbers, which may be written to."""
        return self.owner.detach().view(self.shape)

    @data.setter
    def data(self, value: Any) -> None:
        self.data.copy_(torch.as_tensor(value))


@dataclass
class Part:
    """A parameter of the model by CDTools' name; setting it copies values into it.

    Attributes:
        thin: axes that are left out where their length is one.
        name: of the attribute.
    """

    thin: tuple[int, ...] = ()
    name: str = ""

    def __set_name__(self, owner: type, name: str) -> None:
        """Take the name of the attribute."""
        self.name = name

    def of(self, owner: Any) -> nn.Parameter:
        """The parameter itself."""
        named = parts(owner.core)
        if self.name not in named:
            raise AttributeError(f"this experiment has no {self.name}")
        return named[self.name][0]

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        """The parameter, without the axes that are left out."""
        if owner is None:
            return self
        mine = self.of(owner)
        empty = [axis for axis in self.thin if mine.shape[axis] == 1]
        shape = tuple(size for axis, size in enumerate(mine.shape) if axis not in empty)
        return Lent.of(mine, shape) if empty else mine

    def __set__(self, owner: Any, value: Any) -> None:
        """Copy values of the same shape, which may lack the first axes of one mode and one slice."""
        mine, new = self.of(owner), torch.as_tensor(value)
        seen, given = tuple(self.__get__(owner).shape), tuple(new.shape)
        if new.shape == seen:
            new = new.reshape(mine.shape)
        if new.ndim < mine.ndim:
            new = new.reshape(*[1] * (mine.ndim - new.ndim), *new.shape)
        if new.shape != mine.shape:
            raise BadInput(f"model.{self.name}", given, f"must have the shape {seen}")
        with torch.no_grad():
            mine.copy_(new)


def _home(model: Any) -> torch.device:
    return model.core.scan.start.device


def _flag(name: str) -> Any:
    """An option as a tensor, or ``None``."""

    def tell(model: Any) -> Tensor | None:
        value = getattr(model.options, name)
        return None if value is None else torch.tensor(value, device=_home(model))

    return Told(tell)


def _floats(tell: Any) -> Any:
    """Numbers in single precision on the model's device."""
    return Told(lambda model: torch.as_tensor(tell(model), dtype=torch.float32, device=_home(model)))


def _first(model: Any) -> np.ndarray:
    """Where windows begin is their translation in pixels less this."""
    room = model.core.scan.canvas
    return np.array(room.origin) / np.array(room.pixel) + np.array(room.window) // 2


def _lit(model: Any) -> Tensor:
    support = getattr(model.core.probe, "support", None)
    disk = None if support is None else support.disk
    window = model.core.scan.canvas.window
    return torch.ones(window, dtype=torch.bool, device=_home(model)) if disk is None else disk.bool()


def _onward(model: Any) -> Tensor | None:
    return model.core.propagator.onward


def _between(model: Any) -> Tensor | None:
    """Transfer function between slices."""
    index = torch.zeros(1, dtype=torch.long, device=_home(model))
    flights = model.core.propagator.flights(index) if model.options.nz > 1 else []
    return flights[0].detach().reshape(model.core.scan.canvas.window) if flights else None


def _efficiency(model: Any) -> Tensor | None:
    flat = model.scan.flat if model.options.use_qe_mask else None
    return None if flat is None else torch.tensor(flat, dtype=torch.float32, device=_home(model))


def within(model: Any, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of the object that pictures show."""
    rows, columns = (_within(count, model.options.obj_view_crop or 0) for count in shape[-2:])
    return rows, columns


def _within(count: int, crop: int) -> slice:
    """All but so many at either end; all where that would leave nothing."""
    return slice(crop, count - crop) if 0 < 2 * crop < count else slice(None)


PATTERNS = {
    "amplitude mse": (losses.amplitude_mse, losses.AmplitudeMSENormalizer),
    "intensity mse": (losses.intensity_mse, losses.IntensityMSENormalizer),
    "poisson nll": (losses.poisson_nll, losses.SimplePoissonNLLNormalizer),
}
"""What patterns are compared by, for those who want to compare others; a fit has its own."""
WHOLE = "is not there, for this model is not made of stages: call model(index) for patterns"
DRAWN = "is not built: model.inspect() draws object, probe, places and losses"


class Described(CDIModel):
    """Attributes of CDTools' models; those that are no parameters are told, and cannot be set.

    Attributes:
        probe: ``(mode, y, x)``, relative to ``probe_norm``; a parameter, as all up to `height_scale`.
        obj: ``(y, x)``, with an axis of states or slices before them where it has several. Of an object of
            amplitude and phase it is the phase, with which the amplitude is frozen.
        background: ``(y, x)``, the square root of counts relative to that of the mean count.
        translation_offsets: ``(n, 2)`` rows and columns; object pixels are `translation_scale` times that.
        weights: ``(n,)`` of intensities, or mixtures ``(n, dm_rank, n_modes)``.
        probe_fourier_shifts, heights, height_scale: where the model has them.
        wavelength: metres.
        obj_basis, probe_basis: steps ``(3, 2)`` of their rows and columns, metres.
        original_translations: ``(n, 3)`` of the beam, metres.
        min_translation: ``(2,)`` pixels: a window begins at its translation in pixels less this.
        mask: ``(y, x)``, True: good.
        qe_mask: ``(y, x)``, or ``None``.
        probe_norm: what the probe is relative to, square root of counts.
        probe_support: ``(y, x)``, True: may have light.
        surface_normal: ``(3,)``.
        angular_spectrum_propagator, inv_angular_spectrum_propagator: ``(y, x)`` of near fields, zero
            frequency in the corner; or ``None``.
        obj_view_slice: of rows and columns that pictures show.
        loss: ``(measured, modelled, mask)`` to a number, as in CDTools.
        loss_normalizer: a new one that goes with it.
    """

    probe: Any = Part()
    obj: Any = Part((0, 1))
    background: Any = Part()
    translation_offsets: Any = Part()
    weights: Any = Part()
    probe_fourier_shifts: Any = Part()
    heights: Any = Part()
    height_scale: Any = Part()

    wavelength: Any = _floats(lambda model: model.scan.geometry.wavelength * ANGSTROM)
    obj_basis: Any = _floats(saved.grid)
    probe_basis: Any = Told(lambda model: model.obj_basis)
    original_translations: Any = _floats(
        lambda model: travel(model.scan.positions, model.scan.heights, model.scan.geometry)
    )
    min_translation: Any = _floats(_first)
    surface_normal: Any = _floats(lambda model: model.scan.geometry.normal)
    mask: Any = Told(lambda model: model.core.detector.display(model.core.detector.mask).bool())
    qe_mask: Any = Told(_efficiency)
    probe_norm: Any = Told(lambda model: getattr(model.core.probe, "scale", torch.ones(())))
    probe_support: Any = Told(_lit)
    angular_spectrum_propagator: Any = Told(_onward)
    inv_angular_spectrum_propagator: Any = Told(
        lambda model: None if _onward(model) is None else _onward(model).conj().resolve_conj()  # type: ignore[union-attr]
    )
    interslice_propagator: Any = Told(_between)
    obj_view_slice: Any = Told(lambda model: within(model, model.core.object.canvas.shape))
    translation_scale: Any = _floats(lambda model: model.core.scan.step)
    saturation: Any = _flag("saturation")
    oversampling: Any = _flag("oversampling")
    fourier_probe: Any = _flag("fourier_probe")
    exponentiate_obj: Any = _flag("exponentiate_obj")
    phase_only: Any = _flag("phase_only")
    near_field: Any = Told(lambda model: torch.tensor(model.scan.geometry.near or model.options.near_field))
    simulate_probe_translation: Any = _flag("simulate_probe_translation")
    simulate_finite_pixels: Any = _flag("simulate_finite_pixels")
    loss: Any = Told(lambda model: PATTERNS[model.options.loss][0])
    loss_normalizer: Any = Told(lambda model: PATTERNS[model.options.loss][1]())

    interaction: Any = unwritten("interaction", WHOLE)
    forward_propagator: Any = unwritten("forward_propagator", WHOLE)
    backward_propagator: Any = unwritten("backward_propagator", WHOLE)
    measurement: Any = unwritten("measurement", WHOLE)
    plot_wavefront_variation: Any = unwritten("plot_wavefront_variation", DRAWN)
    plot_illumination_intensity: Any = unwritten("plot_illumination_intensity", DRAWN)
    plot_translations_and_originals: Any = unwritten("plot_translations_and_originals", DRAWN)
    get_rhos: Any = unwritten("get_rhos", "is not built: see CDTools.tools.analysis")
