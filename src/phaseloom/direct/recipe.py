"""The recipe of a direct image, and its result in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from phaseloom.data.known_files import describe_scan
from phaseloom.data.scan import Scan4D
from phaseloom.direct.reconstruct import DirectReconstruction, find_resolution, reconstruct_scan
from phaseloom.direct.solve import DECONVOLUTION_RIDGE, DirectMethod, check_options
from phaseloom.errors import BadInput
from phaseloom.files import whole_hdf5
from phaseloom.physics.optics import coefficients
from phaseloom.result import Provenance
from phaseloom.runs.scan_recipe import ScanRecipe
from phaseloom.units import ANGLE, Coefficients, Length

__all__ = ["Direct", "DirectResult", "reconstruct_recipe"]

MethodName = Literal["wiener", "least_squares", "obf", "matched_filter", "ssb", "parallax", "dpc", "wdd"]


class Direct(ScanRecipe):
    """A recipe of a direct image.

    Attributes:
        semiangle: of the aperture, such as ``21 mrad``; default: that of the disk of the mean pattern.
        aberrations: what is known, such as ``{defocus: 10 nm, C12: 2 nm}``; with ``fit`` only the sign of the
            defocus is used, which tells the phase from its negative.
        fit: find orientation, rotation, step and aberrations from the data.
        method: ``wiener`` and ``least_squares`` give radian, all others do not.
        pixels: about how many bright-field pixels the image is made from.
        upsample: places of the image for each place of the scan, along each axis, 1 to 4; not of ``dpc``.
            Default: 1, or more where the object has details that the raster does not resolve.
        ridge: of ``wdd``, 1e-2 for 1e4 electrons per square angstrom, 1e-3 for 1e5.
        high_pass: period, such as ``5 nm``, at which ``dpc`` leaves half of the phase; default: the shorter
            side of the scan.
        flip: multiply the transfer of ``parallax`` by its sign.
    """

    semiangle: str | None = None
    aberrations: dict[str, str | float] = Field(default_factory=dict)
    fit: bool = True
    method: MethodName = "wiener"
    pixels: int = 500
    upsample: int | None = None
    ridge: float = DECONVOLUTION_RIDGE
    high_pass: Length | None = None
    flip: bool = True

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        upsample = 1 if self.upsample is None else self.upsample
        check_options(DirectMethod(self.method), upsample, self.ridge, self.high_pass)
        return self

    @field_validator("semiangle", mode="before")
    @classmethod
    def _check_semiangle(cls, value: object) -> object:
        if value is not None and not ANGLE.parse(value, "semiangle") > 0:
            raise BadInput("semiangle", value, "is not above zero: write for example '21 mrad'")
        return value

    @field_validator("pixels")
    @classmethod
    def _check_pixels(cls, value: int) -> int:
        if value < 20:
            raise BadInput("pixels", value, "is too few: use at least 20, 500 is usual")
        return value

    @field_validator("aberrations")
    @classmethod
    def _check_aberrations(cls, value: dict[str, str | float]) -> dict[str, str | float]:
        coefficients(Coefficients().parse(value))
        return value

    def read_aberrations(self) -> dict[str, float]:
        """Aberrations as numbers, angstrom and radian."""
        return Coefficients().parse(self.aberrations)


@dataclass(frozen=True, eq=False)
class DirectResult:
    """A direct image with the scan that it is of.

    Attributes:
        found: image, optics, survey.
        scan: the data.
        provenance: see `phaseloom.result.Provenance`.
    """

    found: DirectReconstruction
    scan: Scan4D
    provenance: Provenance

    def tables(self) -> dict[str, tuple[np.ndarray, Mapping[str, Any]]]:
        """Arrays with their attributes, by the name that they have in the file."""
        image = self.found.image
        units = "radian" if image.method.is_in_radian else "arbitrary"
        tables: dict[str, tuple[np.ndarray, Mapping[str, Any]]] = {
            "phase": (
                image.phase.double().numpy(),
                {"units": units, "method": str(image.method), "upsample": image.upsample},
            )
        }
        if image.amplitude is not None:
            attributes = {"units": "1", "of": "-log of the amplitude"}
            tables["amplitude_loss"] = (image.amplitude.double().numpy(), attributes)
        survey = self.found.survey
        tables["mask"] = (survey.mask, {"units": "True where a pixel is trusted"})
        tables["mean_pattern"] = (survey.mean, {"units": "counts"})
        if survey.descan is not None:
            tables["descan"] = (survey.descan, {"units": "detector pixels (row, column)"})
        stated = {"units": "angstrom", "axes": "(row, column), as stated"}
        tables["positions"] = (self.scan.positions, stated)
        tables["image_positions"] = (self.found.positions, {**stated, "step": float(self.found.optics.step)})
        if self.found.deflection is not None:
            deflection = self.found.deflection.reshape(*(self.scan.grid or (-1,)), 2)
            frame = "(row, column) of the stated positions"
            tables["deflection"] = (deflection, {"units": "radian", "axes": frame, "of": "centre of mass"})
        if self.found.correlation is not None:
            curve = self.found.correlation
            table = np.column_stack([curve.frequency, curve.value])
            units = "cycles per angstrom, correlation of half sets of pixels"
            tables["ring_correlation"] = (table, {"units": units, "period": find_resolution(curve)})
        return tables

    def write(self, path: Path, /) -> Path:
        """Write everything to an HDF5 file.

        Raises:
            BadInput: a name with another ending.
        """
        if path.suffix not in (".h5", ".hdf5"):
            raise BadInput("--out", path.name, "is not an .h5 file: give it this ending")

        optics = self.found.optics
        with whole_hdf5(path) as file:
            for name, (values, attributes) in self.tables().items():
                file.create_dataset(name, data=values).attrs.update(attributes)
            file.attrs.update({"phaseloom_direct": 1, "explained": self.found.image.explained})
            numbers = ("semiangle", "rotation", "step", "angle", "focal_spread")
            table = {name: float(getattr(optics, name)) for name in numbers}
            table |= {name: float(value) for name, value in optics.aberrations.items()}
            table["transposed"] = bool(optics.orientation & 4)
            errors = {} if self.found.fit is None else self.found.fit.errors
            file["optics"] = json.dumps(table)
            file["errors"] = json.dumps(errors)
            file.attrs["units"] = "angstrom, radian"
            file.attrs["notes"] = "\n".join(self.found.lines())
            file["provenance"] = json.dumps(asdict(self.provenance))
            for name, facts in describe_scan(self.scan).items():
                file[name] = json.dumps(facts)
        return path


def reconstruct_recipe(recipe: Direct, scan: Scan4D, /) -> DirectResult:
    """Make the direct image of a recipe.

    Args:
        recipe: what to make.
        scan: its data, ``recipe.scan_with_blanks()``.

    Raises:
        BadInput: see `phaseloom.direct.reconstruct.reconstruct_scan`.
    """
    found = reconstruct_scan(
        scan,
        semiangle=None if recipe.semiangle is None else ANGLE.parse(recipe.semiangle, "semiangle"),
        aberrations=recipe.read_aberrations(),
        method=recipe.method,
        fit=recipe.fit,
        pixels=recipe.pixels,
        upsample=recipe.upsample,
        ridge=recipe.ridge,
        high_pass=recipe.high_pass,
        flip=recipe.flip,
    )
    return DirectResult(found, scan, Provenance.now(seed=0, data=scan.digest(), file=recipe.file.name))
