"""Virtual images of a scan: detectors, deflections, integrated phase and radial profile."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import field_validator

from phaseloom.data.known_files import describe_scan
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.files import whole_hdf5
from phaseloom.result import Provenance
from phaseloom.runs.scan_recipe import ScanRecipe
from phaseloom.units import ANGLE
from phaseloom.virtual.annuli import (
    VirtualDetector,
    describe_cut_ring,
    make_annulus,
    make_segments,
    make_standard_detectors,
)
from phaseloom.virtual.images import (
    DirectBeam,
    ScanMeasurement,
    arrange_on_grid,
    find_beam,
    integrate_phase,
    measure_scan,
    subtract_plane,
)
from phaseloom.virtual.radial import RadialProfile, compute_radial_profile

__all__ = ["Virtual", "VirtualImages", "make_virtual_images"]


class Virtual(ScanRecipe):
    """A recipe of virtual images.

    Attributes:
        semiangle: of the beam, such as ``21 mrad``; default: that of the disk of the mean pattern.
        centre: pixel (row, column) of the beam; default: that of the disk, or without one, zero frequency.
        annuli: further rings, from and to in semi-angles.
        segments: into how many the bright field is cut, as those of a DPC detector; 0: none.
        level: take a plane over the scan off the deflections, which the scan coils may have made: the phase
            loses with it what is a parabola.
    """

    semiangle: str | None = None
    centre: tuple[float, float] | None = None
    annuli: tuple[tuple[float, float], ...] = ()
    segments: int = 0
    level: bool = True

    @field_validator("semiangle", mode="before")
    @classmethod
    def _angle(cls, said: object) -> object:
        if said is not None:
            ANGLE.parse(said, "semiangle")
        return said


@dataclass(frozen=True, eq=False)
class VirtualImages:
    """Virtual images of a scan.

    Attributes:
        survey: images, deflections and patterns.
        beam: where it is, how wide, and how that is known.
        deflection: ``(n, 2)`` (y, x) radian, less a plane over the scan unless ``level`` is off.
        phase: ``(rows, columns)`` radian, integrated from it; ``None`` where the positions are no raster.
        profile: of the mean pattern, over angle.
        notes: sentences on what was found and what is left out.
        provenance: see `phaseloom.result.Provenance`.
        facts: of the scan (`phaseloom.data.known_files.describe_scan`).
    """

    survey: ScanMeasurement
    beam: DirectBeam
    deflection: np.ndarray
    phase: np.ndarray | None
    profile: RadialProfile
    notes: tuple[str, ...]
    provenance: Provenance
    facts: Mapping[str, Any] = field(default_factory=dict)

    def write(self, path: Path, /) -> Path:
        """Leave all of it in an HDF5 file; units and the angles of detectors are attributes.

        Raises:
            BadInput: a name with another ending.
        """
        if path.suffix not in (".h5", ".hdf5"):
            raise BadInput("--out", path.name, "is no .h5: give it this ending")

        with whole_hdf5(path) as file:
            for name, (values, attributes) in self.tables().items():
                file.create_dataset(name, data=values).attrs.update(attributes)
            file.attrs.update({"phaseloom_virtual": 1, "semiangle": self.beam.semiangle})
            file.attrs.update({"semiangle_units": "radian", "centre": self.survey.centre})
            file.attrs.update({"centre_units": "pixel (row, column)", "notes": "\n".join(self.notes)})
            if self.survey.grid is not None:
                file.attrs["grid"] = self.survey.grid
            file["provenance"] = json.dumps(asdict(self.provenance))
            for name, facts in self.facts.items():
                file[name] = json.dumps(facts)
        return path

    def tables(self) -> dict[str, tuple[np.ndarray, Mapping[str, Any]]]:
        """Arrays with their attributes, by the name that they have in the file."""
        measured = self.survey
        found: dict[str, tuple[np.ndarray, Mapping[str, Any]]] = {}
        for one, trusted in zip(measured.detectors, measured.trusted, strict=True):
            ring = (
                {} if one.inner is None else {"inner": one.inner, "outer": one.outer, "angle_units": "radian"}
            )
            attributes = {"units": "counts", "trusted_share": float(trusted), **ring}
            found[f"images/{one.name}"] = (measured.image(one.name), attributes)
            found[f"detectors/{one.name}"] = (one.weights, {"units": "share of a pixel", **ring})
        found["images/total"] = (
            arrange_on_grid(measured.total, measured.grid),
            {"units": "counts", "of": "trusted pixels, as they are"},
        )
        bent = {"units": "radian", "axes": "(y, x) last; positive towards larger rows and columns"}
        found["deflection/measured"] = (arrange_on_grid(measured.deflection, measured.grid), bent)
        found["deflection/used"] = (arrange_on_grid(self.deflection, measured.grid), bent)
        if self.phase is not None:
            found["phase"] = (self.phase, {"units": "radian", "from": "deflection/used"})
        for name in ("mean", "highest", "spread"):
            found[f"patterns/{name}"] = (getattr(measured, name), {"units": "counts"})
        for name in ("mean", "variance", "share"):
            units = {"mean": "counts", "variance": "counts^2", "share": "1"}[name]
            found[f"radial/{name}"] = (getattr(self.profile, name), {"units": units})
        found["radial/angle"] = (self.profile.angle, {"units": "radian"})
        found["positions"] = (measured.positions, {"units": "angstrom", "axes": "(row, column)"})
        return found


def make_virtual_images(recipe: Virtual, scan: Scan4D, /) -> VirtualImages:
    """Find the beam, place the detectors around it, and compute their images of the scan.

    Args:
        recipe: which images to make.
        scan: its data, ``recipe.scan_with_blanks()``: a blank pattern has a place in an image.

    Raises:
        BadInput: no semi-angle and no disk, a ring that the detector does not reach, or no counts at all.
    """
    semiangle = None if recipe.semiangle is None else ANGLE.parse(recipe.semiangle, "semiangle")
    beam = find_beam(scan, semiangle=semiangle, centre=recipe.centre)
    detectors, notes = _make_detectors(recipe, scan, beam)
    found = measure_scan(scan, detectors, centre=beam.centre)
    if not (found.total > 0).any():
        raise BadInput(recipe.file.name, None, "holds no counts at all: check the data set and the mask")
    if blank := int((~(found.total > 0)).sum()):
        notes = (*notes, f"{blank} of {len(scan)} patterns hold no counts: their deflection is NaN")
    deflection = found.deflection
    phase = None
    if recipe.level:
        deflection = subtract_plane(deflection, scan.positions)
        notes = (*notes, "a plane is taken off the deflections, and with it parabolas of the phase (level)")
    if scan.grid is not None:
        phase = integrate_phase(deflection, scan.positions, scan.grid, wavelength=scan.geometry.wavelength)
    else:
        notes = (*notes, "the positions are not a raster, so the phase is not integrated")
    return VirtualImages(
        survey=found,
        beam=beam,
        deflection=deflection,
        phase=phase,
        profile=compute_radial_profile(found.mean, scan.geometry, centre=beam.centre, mask=scan.mask),
        notes=(*beam.notes, *notes),
        provenance=Provenance.now(seed=0, data=scan.digest(), file=recipe.file.name),
        facts=describe_scan(scan),
    )


def _make_detectors(
    recipe: Virtual, scan: Scan4D, beam: DirectBeam
) -> tuple[tuple[VirtualDetector, ...], tuple[str, ...]]:
    """The standard ones, the rings that were asked for, and segments of the bright field."""
    made, notes = make_standard_detectors(scan.geometry, beam.semiangle, centre=beam.centre, mask=scan.mask)
    for inner, outer in recipe.annuli:
        name = f"{inner:g}-{outer:g}"
        limits = (inner * beam.semiangle, outer * beam.semiangle)
        ring = make_annulus(scan.geometry, *limits, name=name, centre=beam.centre)
        made = (*made, ring)
        notes = (*notes, *describe_cut_ring(scan.geometry, ring, centre=beam.centre))
    if recipe.segments:
        whole = (0.0, beam.semiangle)
        made += make_segments(scan.geometry, *whole, count=recipe.segments, centre=beam.centre)
    return made, notes
