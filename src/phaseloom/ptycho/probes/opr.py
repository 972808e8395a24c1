"""Probes that change from pattern to pattern, within the span of a few common modes."""

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from phaseloom.data.scan import Geometry
from phaseloom.physics.modes import orthogonalise
from phaseloom.ptycho.illumination import Probe, SquareSlope, Support

__all__ = ["RelaxedProbe"]

CURVATURE_DAMPING = 0.05
"""Share of the strongest curvature that is added to all: what hardly any pattern has moves little."""

MIN_MODE_POWER = 1e-7
"""Of the power of all modes, which the mean state holds of a mode that no pattern has."""


class RelaxedProbe(Probe):
    """Orthogonal probe relaxation: each pattern is lit by mixtures of its own of a few common modes.

    Pattern ``n`` sees the incoherent modes ``sum_k mixture[n, m, k] basis[k]``. One mode in a basis of
    several is a coherent beam that drifts or breathes; several are partly coherent as well. With as many
    modes as the basis has, and mixtures that stay at unity, it is a `Probe`.

    Attributes:
        mixture: complex ``(n, mode, basis)``; a parameter.
        relative: see `Probe`: the basis.

    Source:
        Odstrcil et al. 2016, doi 10.1364/OE.24.008360.
    """

    def __init__(
        self,
        basis: Complex[Tensor, "basis y x"],
        geometry: Geometry,
        mixture: Complex[Tensor, "n mode basis"],
        *,
        relative: bool = True,
        support: Support | None = None,
    ):
        super().__init__(basis, geometry, relative=relative, support=support)
        self.mixture = nn.Parameter(mixture)

    def basis(self) -> Complex[Tensor, "basis y x"]:
        """The common modes in square roots of counts."""
        return super().modes()

    def modes(self) -> Complex[Tensor, "basis y x"]:
        """The mean state of all patterns as orthogonal modes, strongest first."""
        basis = self.basis()
        power, turn = self._mean_state()
        mixed = (turn * power.clamp(min=0).sqrt()).T @ basis.flatten(1)
        return orthogonalise(mixed.view_as(basis))

    def modes_of(self, index: Int[Tensor, " b"] | None) -> Complex[Tensor, "#b mode y x"]:
        """The modes of the patterns of an index; of all patterns on the mean if there is none."""
        if index is None:
            return self.modes()[None]
        basis = self.basis()
        return (self.mixture[index] @ basis.flatten(1)).unflatten(-1, basis.shape[1:])

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The basis, a common defocus, and the mixtures."""
        return {**super().parts(), "opr_weights": [self.mixture]}

    @torch.no_grad()
    def square_slopes(self) -> dict[nn.Parameter, SquareSlope]:
        """Newton steps of the basis for these mixtures, and of the mixtures for this basis."""
        flat = self.basis().flatten(1)
        mixed = self.mixture.flatten(0, 1)
        of_mixture = _damped_inverse(flat @ flat.mH)
        of_basis = _damped_inverse(mixed.mH @ mixed / len(self.mixture)) / float(self.scale) ** 2
        return {
            self.relative: lambda gradient: torch.einsum("kl,lyx->kyx", of_basis, gradient),
            self.mixture: lambda gradient: gradient @ of_mixture,
        }

    @torch.no_grad()
    def set_modes(self, modes: Complex[Tensor, "basis y x"]) -> None:
        """Take over another mean state, by the least change of the basis; mixtures stay."""
        old = self.basis().flatten(1)
        now = self.modes().flatten(1)
        way = now @ old.mH @ torch.linalg.pinv(old @ old.mH, hermitian=True)
        super().set_modes((old + torch.linalg.pinv(way) @ (modes.flatten(1) - now)).view_as(modes))

    @torch.no_grad()
    def mixtures_of(self, modes: Complex[Tensor, "basis y x"]) -> Complex[Tensor, "n mode basis"]:
        """The mixtures of `modes` that make the same patterns, strongest mode of each first."""
        power = modes.abs().square().sum((1, 2))
        mixture = self.mixture @ (self.basis().flatten(1) @ modes.flatten(1).mH) / power
        left, _, _ = torch.linalg.svd(mixture * power.sqrt(), full_matrices=False)
        return left.mH @ mixture

    @torch.no_grad()
    def orthogonalise(self) -> None:
        """Make the basis that of `modes`, and mixtures orthogonal, strongest first; no pattern changes."""
        modes = self.modes()
        self.mixture.copy_(self.mixtures_of(modes))
        super().set_modes(modes)

    def _mean_state(self) -> tuple[Float[Tensor, " basis"], Complex[Tensor, "basis basis"]]:
        """Powers and axes of the mean over patterns of ``W^T W*``; a trace of all, so that none is lost."""
        flat = self.mixture.flatten(0, 1)
        mean = flat.T @ flat.conj() / len(self.mixture)
        trace = torch.eye(len(mean), dtype=mean.dtype, device=mean.device) * (
            MIN_MODE_POWER * mean.trace().real
        )
        power, turn = torch.linalg.eigh(mean + trace)
        return power, turn


class ProbeOfScans(RelaxedProbe):
    """A probe for each of several scans that see one object: mixtures that stay as they are.

    The basis has the modes of all scans, of which each pattern takes those of its own.
    """

    def __init__(
        self,
        modes: Complex[Tensor, "scan mode y x"],
        geometry: Geometry,
        numbers: Int[Tensor, " n"],
    ):
        """Begin with the modes of each scan.

        Args:
            modes: of each scan, square roots of counts.
            geometry: of the patterns as they are modelled.
            numbers: which scan each pattern is of, from 0.
        """
        scans, count = modes.shape[:2]
        own = torch.eye(scans * count, dtype=modes.dtype).view(scans, count, scans * count)
        super().__init__(modes.flatten(0, 1), geometry, own[numbers])
        self.mixture.requires_grad_(False)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The basis, and a common defocus."""
        return {name: part for name, part in super().parts().items() if name != "opr_weights"}

    @torch.no_grad()
    def square_slopes(self) -> dict[nn.Parameter, SquareSlope]:
        """Newton steps of the basis."""
        return {self.relative: super().square_slopes()[self.relative]}


def _damped_inverse(bend: Tensor) -> Tensor:
    strongest = torch.linalg.matrix_norm(bend, ord=2)
    return torch.linalg.inv(bend + CURVATURE_DAMPING * strongest * torch.eye(len(bend), device=bend.device))
