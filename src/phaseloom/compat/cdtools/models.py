"""CDTools' models by name: what each is made of, from a dataset and its arguments."""

import logging
from importlib import import_module
from typing import Any

from phaseloom.compat.cdtools.attributes import Part
from phaseloom.compat.cdtools.base import CDIModel
from phaseloom.compat.cdtools.build import Options, experiment
from phaseloom.compat.cdtools.datasets import CDataset
from phaseloom.compat.cdtools.experiment import Experiment
from phaseloom.compat.cdtools.oblique import lying
from phaseloom.compat.cdtools.validate import asked, data_of
from phaseloom.errors import BadInput, nearest

__all__ = ["AxialPtycho", "CDIModel", "FancyPtycho", "SimplePtycho"]

log = logging.getLogger(__name__)

ELSEWHERE = {
    "RPI": "rpi",
    "Bragg2DPtycho": "bragg",
    "MultislicePtycho": "multislice",
    "Multislice2DPtycho": "multislice",
}
"""Models that stand on those here, by the file that each is in."""


def __getattr__(name: str) -> Any:
    if name in ELSEWHERE:
        return getattr(import_module(f"phaseloom.compat.cdtools.{ELSEWHERE[name]}"), name)
    raise AttributeError(f"CDTools has no model {name!r}: {nearest(name, [*__all__, *ELSEWHERE])}")


class FancyPtycho(Experiment):
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
    @asked
    def from_dataset(  # noqa: PLR0913, PLR0917 - as CDTools has it
        cls,
        dataset: CDataset,
        randomize_ang: float = 0,
        n_modes: int = 1,
        n_obj_modes: int = 1,
        dm_rank: int | None = None,
        translation_scale: float = 1,
        saturation: float | None = None,
        use_qe_mask: bool = False,
        probe_support_radius: float | None = None,
        probe_fourier_crop: Any = None,
        propagation_distance: float | None = None,
        scattering_mode: str | None = None,
        oversampling: int = 1,
        fourier_probe: bool = False,
        loss: str = "amplitude mse",
        units: str = "um",
        allow_probe_fourier_shifts: bool = False,
        simulate_probe_translation: bool = False,
        simulate_finite_pixels: bool = False,
        exponentiate_obj: bool = False,
        phase_only: bool = False,
        obj_view_crop: Any = None,
        obj_padding: int | None = None,
        near_field: bool = False,
        panel_plot_mode: bool = True,
        plot_level: int = 2,
        surface_normal: Any = None,
    ) -> Any:
        """A model with a flat object and a probe from the mean pattern.

        Args:
            dataset: the data; its ``intensities`` are where the weights start.
            randomize_ang: width of the random phases (radian) that the object starts with.
            n_modes: incoherent modes of the probe.
            n_obj_modes: mutually incoherent states of the object, each seen by all modes of the probe (in
                CDTools, mode i of the probe sees state i).
            dm_rank: modes of each pattern, mixed from ``n_modes`` in common (OPRP); -1: as many. ``weights``
                are then the mixtures, complex ``(n, dm_rank, n_modes)``.
            translation_scale: object pixels per unit of ``translation_offsets``, which move as much faster.
            saturation: counts at which a pixel of the detector is full.
            use_qe_mask: multiply by the dataset's ``qe_mask``.
            probe_support_radius: pixels of the probe beyond which it is dark, at every step.
            probe_fourier_crop: plane waves that the probe lacks at each edge of its spectrum.
            propagation_distance: metres. Far field: that the focused probe has flown on to the sample
                (positive: the focus lies before it); near field: from the focus to the sample.
            scattering_mode: ``"t"``: the sample lies across the beam; ``"r"``: it reflects the beam into the
                detector; default: as the data say.
            oversampling: modelled pixels per detector pixel and axis; the probe has as much more room.
            fourier_probe: optimise the probe's plane waves instead of its pixels.
            loss: ``amplitude mse``, ``intensity mse`` or ``poisson nll``.
            units: for CDTools' sake (``model.units``); axes have the unit that suits them.
            allow_probe_fourier_shifts: refine a tilt of the beam for each shot, as a shift of its pattern.
            simulate_probe_translation: the beam moves and the detector does not: patterns move with it.
            simulate_finite_pixels: pixels of the detector count on their whole area.
            exponentiate_obj: an object of amplitude and phase, not of real and imaginary part.
            phase_only: an object of phase, whose amplitude stays one (in CDTools it only starts so, unless
                ``exponentiate_obj``).
            obj_view_crop: pixels that pictures leave out at each edge of the object.
            obj_padding: pixels around the scanned field; default: what positions need to be refined.
            near_field: the detector sees the near field.
            panel_plot_mode: for CDTools' sake: all is in one figure.
            plot_level: for CDTools' sake.
            surface_normal: of the sample, three numbers; comes before ``scattering_mode`` (not in CDTools).

        Raises:
            BadInput: what is not built, or cannot be meant.
        """
        options = Options(
            randomize_ang=randomize_ang,
            n_modes=n_modes,
            n_obj_modes=n_obj_modes,
            dm_rank=dm_rank,
            translation_scale=translation_scale,
            saturation=saturation,
            use_qe_mask=use_qe_mask,
            probe_support_radius=probe_support_radius,
            probe_fourier_crop=probe_fourier_crop,
            fourier_probe=fourier_probe,
            propagation_distance=propagation_distance,
            oversampling=oversampling,
            loss=loss,
            units=units,
            allow_probe_fourier_shifts=allow_probe_fourier_shifts,
            simulate_probe_translation=simulate_probe_translation,
            simulate_finite_pixels=simulate_finite_pixels,
            obj_view_crop=obj_view_crop,
            exponentiate_obj=exponentiate_obj,
            phase_only=phase_only,
            obj_padding=obj_padding,
            near_field=near_field,
        )
        scan = lying(data_of("from_dataset", dataset).scan, scattering_mode, surface_normal)
        return cls(*experiment(scan, options), scan)


class SimplePtycho(Experiment):
    """The least that ptychography is: one mode, positions, weights and background as they are known.

    Attributes:
        probe: ``(y, x)``.
    """

    probe: Any = Part((0,))

    @classmethod
    @asked
    def from_dataset(cls, dataset: CDataset) -> Any:
        """A model of object and probe; other parts are frozen, and may be set free."""
        scan = data_of("from_dataset", dataset).scan
        model = cls(*experiment(scan, Options()), scan)
        for part in (model.translation_offsets, model.weights, model.background):
            part.requires_grad_(False)
        return model


class AxialPtycho(Experiment):
    """Ptychography along the beam: the third column of ``translations`` moves the focus through the sample.

    Lateral motion may come with it. Without any, a probe of free pixels cannot be told from the object: give
    one that is known, or one that optics describe (`phaseloom.ptycho.probes.aberrated`).
    """

    @classmethod
    @asked
    def from_dataset(  # noqa: PLR0913 - a knob for each part
        cls,
        dataset: CDataset,
        *,
        probe: Any = None,
        n_modes: int = 1,
        propagation_distance: float | None = None,
        near_field: bool = False,
        oversampling: int = 1,
        probe_support_radius: float | None = None,
        translation_scale: float = 1,
        use_qe_mask: bool = False,
        loss: str = "amplitude mse",
        units: str = "um",
        exponentiate_obj: bool = False,
        phase_only: bool = False,
        randomize_ang: float = 0,
        obj_padding: int | None = None,
        refine_heights: bool = True,
    ) -> Any:
        """A model of a scan along the beam; arguments as for `FancyPtycho`, besides those here.

        Args:
            dataset: the data.
            probe: on the sample at the mean height: complex ``(y, x)`` or ``(mode, y, x)`` in square roots of
                counts, or an illumination of ours; default: from the mean pattern.
            n_modes: of a probe from the patterns.
            propagation_distance: of a probe from the patterns, to the mean height.
            near_field: the detector sees the near field.
            oversampling: see there.
            probe_support_radius: see there.
            translation_scale: see there.
            use_qe_mask: see there.
            loss: see there.
            units: see there.
            exponentiate_obj: see there.
            phase_only: see there.
            randomize_ang: see there.
            obj_padding: see there.
            refine_heights: whether ``model.heights``, moves of each in depths of focus, are free.

        Raises:
            BadInput: translations that do not differ along the beam.
        """
        scan = data_of("from_dataset", dataset).scan
        if scan.heights is None:
            fix = "are all the same along the beam, and one plane cannot determine the object: take more"
            fix += " planes, or use FancyPtycho for a scan to the side"
            raise BadInput("AxialPtycho: translations[:, 2]", None, fix)
        if probe is None and max(scan.extent) < max(scan.geometry.pixel):
            log.warning("AxialPtycho: without lateral motion a free probe is ambiguous: give a known one")
        options = Options(
            n_modes=n_modes,
            propagation_distance=propagation_distance,
            near_field=near_field,
            oversampling=oversampling,
            probe_support_radius=probe_support_radius,
            translation_scale=translation_scale,
            use_qe_mask=use_qe_mask,
            loss=loss,
            units=units,
            exponentiate_obj=exponentiate_obj,
            phase_only=phase_only,
            randomize_ang=randomize_ang,
            obj_padding=obj_padding,
            axial=True,
            refine_heights=refine_heights,
        )
        return cls(*experiment(scan, options, probe), scan)
