"""CDTools' models by name: what each is made of, from a dataset and its arguments."""

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from phaseloom.compat.cdtools.arguments import accepts, check_number
from phaseloom.compat.cdtools.attributes import ParameterAlias
from phaseloom.compat.cdtools.build import Options, build_model, check_memory, tilt_sample
from phaseloom.compat.cdtools.datasets.base import CDataset, check_dataset
from phaseloom.compat.cdtools.models import base
from phaseloom.compat.cdtools.models.base import CDIModel
from phaseloom.compat.cdtools.models.scan_model import ScanModel
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, nearest
from phaseloom.physics.fourier import fit_window
from phaseloom.ptycho import probes

if TYPE_CHECKING:
    from phaseloom.compat.cdtools.models.rpi import RPI

__all__ = ["RPI", "AxialPtycho", "Bragg2DPtycho", "CDIModel", "FancyPtycho", "Multislice2DPtycho"]
__all__ += ["MultislicePtycho", "SimplePtycho", "base"]

log = logging.getLogger(__name__)


def __getattr__(name: str) -> Any:
    if name == "RPI":
        from phaseloom.compat.cdtools.models.rpi import RPI

        return RPI
    raise AttributeError(f"CDTools has no model {name!r}: {nearest(name, __all__)}")


def _sample(dataset: CDataset, given: dict[str, Any]) -> Scan4D:
    """The scan of a dataset, its sample tilted as asked."""
    scan = check_dataset("from_dataset", dataset).scan
    return tilt_sample(scan, given.get("scattering_mode"), given.get("surface_normal"))


class FancyPtycho(ScanModel):
    """Ptychography with incoherent modes, refined positions, shot intensities and background.

    Translations along the beam are honoured where they matter, as they are not in CDTools.

    Example:
        >>> from phaseloom.compat import cdtools as CDTools
        >>> detector = {"distance": 1.0, "basis": [[0, -1e-4], [-1e-4, 0], [0, 0]]}
        >>> places, counts = np.zeros((3, 3)), np.full((3, 8, 8), 9, np.uint16)
        >>> places[:, 0] = np.arange(3) * 1e-6
        >>> optics = {"wavelength": 1e-9, "detector_geometry": detector}
        >>> dataset = CDTools.datasets.Ptycho2DDataset(places, counts, **optics)
        >>> model = CDTools.models.FancyPtycho.from_dataset(dataset)
        >>> losses = [loss for loss in model.Adam_optimize(3, dataset)]
        >>> len(losses), bool(np.isfinite(losses).all())
        (3, True)
    """

    @classmethod
    @accepts(
        "dataset randomize_ang n_modes n_obj_modes dm_rank translation_scale saturation use_qe_mask "
        "probe_support_radius probe_fourier_crop propagation_distance scattering_mode oversampling "
        "fourier_probe loss units allow_probe_fourier_shifts simulate_probe_translation "
        "simulate_finite_pixels exponentiate_obj phase_only obj_view_crop obj_padding near_field "
        "panel_plot_mode plot_level surface_normal"
    )
    def from_dataset(cls, dataset: CDataset, **given: Any) -> Any:
        """A model with a flat object and a probe from the mean pattern."""
        scan = _sample(dataset, given)
        return cls(*build_model(scan, Options(**given)), scan)


class SimplePtycho(ScanModel):
    """The least that ptychography is: one mode, positions, weights and background as they are known.

    Attributes:
        probe: ``(y, x)``.
    """

    probe: Any = ParameterAlias((0,))

    @classmethod
    @accepts("dataset")
    def from_dataset(cls, dataset: CDataset) -> Any:
        """A model of object and probe; other parts are frozen, and may be set free."""
        scan = check_dataset("from_dataset", dataset).scan
        model = cls(*build_model(scan, Options()), scan)
        for part in (model.translation_offsets, model.weights, model.background):
            part.requires_grad_(False)
        return model


class AxialPtycho(ScanModel):
    """Ptychography along the beam: the third column of ``translations`` moves the focus through the sample.

    Lateral motion may come with it. Without any, a probe of free pixels cannot be told from the object: give
    one that is known, or one that optics describe (`phaseloom.ptycho.probes.aberrated`).
    """

    @classmethod
    @accepts(
        "dataset * probe n_modes propagation_distance near_field oversampling probe_support_radius "
        "translation_scale use_qe_mask loss units exponentiate_obj phase_only randomize_ang obj_padding "
        "refine_heights"
    )
    def from_dataset(cls, dataset: CDataset, probe: Any, **given: Any) -> Any:
        """A model of a scan along the beam.

        Raises:
            BadInput: translations that do not differ along the beam.
        """
        scan = check_dataset("from_dataset", dataset).scan
        if scan.heights is None:
            fix = "are all the same along the beam, and one plane cannot determine the object: take more"
            fix += " planes, or use FancyPtycho for a scan to the side"
            raise BadInput("AxialPtycho: translations[:, 2]", None, fix)
        if probe is None and max(scan.extent) < max(scan.geometry.pixel):
            log.warning("AxialPtycho: without lateral motion a free probe is ambiguous: give a known one")
        return cls(*build_model(scan, Options(**given, axial=True), probe), scan)


class MultislicePtycho(ScanModel):
    """`FancyPtycho` through several slices with free propagation between them, far or near field.

    The beam is moved to each position once, before the first slice; behind the last one nothing follows.

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

    obj: Any = ParameterAlias((0,))

    @classmethod
    @accepts(
        "dataset dz nz probe_shape randomize_ang n_modes n_obj_modes dm_rank translation_scale saturation "
        "probe_support_radius probe_fourier_crop propagator_fourier_crop propagation_distance "
        "scattering_mode oversampling fourier_probe loss units simulate_probe_translation "
        "simulate_finite_pixels obj_view_crop obj_padding exponentiate_obj panel_plot_mode plot_level * "
        "use_qe_mask allow_probe_fourier_shifts phase_only near_field surface_normal"
    )
    def from_dataset(cls, dataset: CDataset, **given: Any) -> Any:
        """A model of equal slices, flat at first."""
        options = _thick_options(given)
        scan = _sample(dataset, given)
        return cls(*build_model(scan, options), scan)


class Multislice2DPtycho(ScanModel):
    """`MultislicePtycho` lit by a lens, as in a scanning transmission electron microscope.

    In CDTools 0.3.2 it cannot be made.
    """

    obj: Any = ParameterAlias((0,))

    @classmethod
    @accepts(
        "dataset dz nz probe_convergence_semiangle * propagation_distance replicate_slice randomize_ang "
        "n_modes n_obj_modes dm_rank translation_scale saturation use_qe_mask probe_support_radius "
        "probe_fourier_crop scattering_mode oversampling fourier_probe loss units "
        "allow_probe_fourier_shifts simulate_probe_translation simulate_finite_pixels exponentiate_obj "
        "phase_only obj_view_crop obj_padding near_field panel_plot_mode plot_level surface_normal"
    )
    def from_dataset(cls, dataset: CDataset, probe_convergence_semiangle: float, **given: Any) -> Any:
        """A model of equal slices, flat at first, and a probe from an aperture."""
        # The probe has its defocus already: what is built from the options must not propagate it again.
        distance = given.pop("propagation_distance")
        options = _thick_options(given)
        scan = _sample(dataset, given)
        check_memory("oversampling", np.multiply(scan.geometry.shape, options.oversampling), options)
        defocus = 0.0 if distance is None else -distance * 1e10
        aperture = {"semiangle": probe_convergence_semiangle, "modes": options.n_modes}
        modes = probes.focused(scan, defocus=defocus, **aperture).modes().detach()
        rows, columns = (options.oversampling * count for count in modes.shape[-2:])
        return cls(*build_model(scan, options, fit_window(modes, (rows, columns))), scan)


class Bragg2DPtycho(ScanModel):
    """A sample that is tilted against the beam, and a detector anywhere (docs/geometry.md).

    The object's grid lies on the surface and looks the same as that of `FancyPtycho` to the detector.

    Example:
        >>> from phaseloom.compat import cdtools as CDTools
        >>> detector = {"distance": 1.0, "basis": [[0, -1e-2], [-1e-2, 0], [0, 0]]}
        >>> places, counts = np.zeros((3, 3)), np.full((3, 8, 8), 9, np.uint16)
        >>> places[:, 0] = np.arange(3) * 1e-7
        >>> optics = {"wavelength": 1e-9, "detector_geometry": detector}
        >>> dataset = CDTools.datasets.Ptycho2DDataset(places, counts, **optics)
        >>> model = CDTools.models.Bragg2DPtycho.from_dataset(dataset, surface_normal=[0.5, 0, 0.8])
        >>> losses = [loss for loss in model.Adam_optimize(3, dataset)]
        >>> model.core.heights is not None, bool(np.isfinite(losses).all())
        (True, True)
    """

    @classmethod
    @accepts(
        "dataset randomize_ang padding n_modes translation_scale saturation probe_support_radius "
        "propagation_distance scattering_mode oversampling probe_fourier_crop propagate_probe correct_tilt "
        "lens loss obj_padding obj_view_crop units surface_normal panel_plot_mode plot_level"
    )
    def from_dataset(cls, dataset: CDataset, correct_tilt: bool, propagate_probe: bool, **given: Any) -> Any:
        """A model with a flat object and a probe from the mean pattern.

        ``probe_fourier_crop`` may be twice the same number. With ``correct_tilt``, CDTools compares pixels
        beyond those of the model with nothing.
        """
        for name, value in {"propagate_probe": propagate_probe, "correct_tilt": correct_tilt}.items():
            if value not in (True, False):
                raise BadInput(f"from_dataset: {name}", value, "must be True or False")
        scan = _sample(dataset, given)
        given["probe_fourier_crop"] = _single_crop(given["probe_fourier_crop"])
        ewald = "none" if not correct_tilt else "lens" if given["lens"] else "flat"
        axial = propagate_probe and scan.heights is not None
        return cls(*build_model(scan, Options(**given, axial=axial, ewald=ewald)), scan)


def _thick_options(given: dict[str, Any]) -> Options:
    """Options of several slices; a single one needs no distance."""
    if not (check_number("from_dataset: dz", given["dz"]) > 0 or given["nz"] == 1):
        raise BadInput("from_dataset: dz", given["dz"], "must be a distance above zero, in metres")
    return Options(**given | {"dz": float(given["dz"])})


def _single_crop(crop: Any) -> int | None:
    """One number for rows and columns."""
    if crop is None or isinstance(crop, int):
        return crop
    numbers = {int(number) for number in np.atleast_1d(crop)} if np.ndim(crop) == 1 else set()
    if len(numbers) != 1:
        raise BadInput("from_dataset: probe_fourier_crop", crop, "must be the same for rows and columns")
    return numbers.pop()
