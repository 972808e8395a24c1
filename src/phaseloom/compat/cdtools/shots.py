"""Parts of CDTools' randomized probe imaging: known modes, and shots that were all taken at one place."""

from typing import Any

import torch
from jaxtyping import Complex
from torch import Tensor, nn

from phaseloom.compat.cdtools.data import CDataset
from phaseloom.compat.cdtools.likelihood import ScanFit
from phaseloom.ptycho.illumination import Illumination
from phaseloom.ptycho.scans import Positions

__all__ = ["KnownModes", "Shots"]


class KnownModes(Illumination):
    """Modes that are known but for a matrix that mixes them.

    Attributes:
        known: ``(mode, y, x)`` in square roots of counts.
        matrix: ``(mode, mode)``: each mode as a sum of the known ones; a parameter.
    """

    known: Tensor

    def __init__(self, known: Complex[Tensor, "mode y x"]):
        super().__init__()
        self.register_buffer("known", known)
        self.matrix = nn.Parameter(torch.eye(len(known), dtype=known.dtype))

    def modes(self) -> Complex[Tensor, "mode y x"]:
        """The mixed modes."""
        return torch.tensordot(self.matrix, self.known, 1)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The matrix."""
        return {"probe": [self.matrix]}


class Shots(ScanFit):
    """A fit of any dataset whose patterns have the model's pixels: each was taken at the same place."""

    def run(
        self, name: str, make: Any, iterations: int, dataset: CDataset, *course: Any, **knobs: Any
    ) -> Any:
        """See `Fit.run`."""
        core, many = self.core, len(dataset)
        if many != len(core.scan.start):
            core.scan = Positions(core.scan.start[:1].repeat(many, 1), core.object.canvas)
            core.detector.weights = nn.Parameter(core.detector.weights[:1].repeat(many))
            for parameter in (*core.scan.parameters(), core.detector.weights):
                parameter.requires_grad_(False)
        return super().run(name, make, iterations, dataset, *course, **knobs)
