"""How the wave flies: between slices and to the detector."""

from collections.abc import Callable

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from phaseloom.data.scan import Geometry
from phaseloom.physics import propagate
from phaseloom.physics.fourier import ramp
from phaseloom.physics.scatter import multislice

__all__ = ["exact", "fresnel"]


class FreeFlight(nn.Module):
    """Multislice through the object, then the far field, or a near field of given distance.

    Windows lie on whole pixels and the probe is moved by the rest. A far field does not see such a
    move, a near field does: beam and detector stand still while the sample moves, so on the way to a
    near detector the wave is moved back.

    Attributes:
        between: kernel of the flight between slices, zero frequency in the corner.
        onward: kernel of the flight to a near detector; ``None``: far field.
    """

    between: Tensor
    onward: Tensor | None

    def __init__(self, between: Complex[Tensor, "y x"], onward: Complex[Tensor, "y x"] | None):
        super().__init__()
        self.register_buffer("between", between)
        self.register_buffer("onward", onward)

    def forward(
        self,
        wave: Complex[Tensor, "b mode y x"],
        slices: Complex[Tensor, "b slice y x"],
        rest: Float[Tensor, "b 2"],
    ) -> Complex[Tensor, "b mode y x"]:
        """Wave on the detector: corner order in the far field, as seen in the near field."""
        leaving = multislice(wave, slices, self.between)
        if self.onward is None:
            return propagate.far_field(leaving)
        rows, columns = ramp(-rest[:, None], (leaving.shape[-2], leaving.shape[-1]))
        return propagate.fly(leaving, self.onward * rows * columns)


def exact(geometry: Geometry, thickness: float, /) -> FreeFlight:
    """Flight by the angular spectrum, exact for scalar waves."""
    return _flight(geometry, thickness, propagate.angular_spectrum)


def fresnel(geometry: Geometry, thickness: float, /) -> FreeFlight:
    """Flight by the paraxial kernel, as most of the literature has it."""
    return _flight(geometry, thickness, propagate.fresnel)


def _flight(geometry: Geometry, thickness: float, kernel: Callable[..., Tensor]) -> FreeFlight:
    def over(distance: float) -> Tensor:
        z = torch.tensor(distance, dtype=torch.float64)
        return kernel(geometry.shape, geometry.pixel, geometry.wavelength, z).to(torch.complex64)

    return FreeFlight(over(thickness), over(geometry.flight) if geometry.near else None)
