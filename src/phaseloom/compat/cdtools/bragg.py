"""CDTools' model of a tilted sample, of a reflection or a Bragg peak."""

from typing import Any

import numpy as np

from phaseloom.compat.cdtools.build import Options, experiment
from phaseloom.compat.cdtools.datasets import CDataset
from phaseloom.compat.cdtools.experiment import Experiment
from phaseloom.compat.cdtools.oblique import lying
from phaseloom.compat.cdtools.validate import asked, data_of
from phaseloom.errors import BadInput

__all__ = ["Bragg2DPtycho"]


class Bragg2DPtycho(Experiment):
    """A sample that is tilted against the beam, and a detector anywhere (docs/geometry.md).

    The object's grid lies on the surface and looks the same as that of `FancyPtycho` to the detector.

    Example:
        >>> import numpy as np
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
    @asked
    def from_dataset(  # noqa: PLR0913, PLR0917 - as CDTools has it
        cls,
        dataset: CDataset,
        randomize_ang: float = 0,
        padding: int = 0,
        n_modes: int = 1,
        translation_scale: float = 1,
        saturation: float | None = None,
        probe_support_radius: float | None = None,
        propagation_distance: float | None = None,
        scattering_mode: str | None = None,
        oversampling: int = 1,
        probe_fourier_crop: Any = None,
        propagate_probe: bool = True,
        correct_tilt: bool = True,
        lens: bool = False,
        loss: str = "amplitude mse",
        obj_padding: int | None = None,
        obj_view_crop: int | None = None,
        units: str = "um",
        surface_normal: Any = None,
        panel_plot_mode: bool = False,
        plot_level: int = 1,
    ) -> Any:
        """A model with a flat object and a probe from the mean pattern; most arguments as for `FancyPtycho`.

        Args:
            dataset: the data.
            randomize_ang: see there.
            padding: for CDTools' sake, where it has no effect either.
            n_modes: see there.
            translation_scale: see there.
            saturation: see there.
            probe_support_radius: see there.
            propagation_distance: see there.
            scattering_mode: ``t``: a surface across the beam; ``r``: one that reflects the beam into the
                middle of the detector; default: what the file says.
            oversampling: see there.
            probe_fourier_crop: see there; or twice the same number.
            propagate_probe: let the probe fly by what the tilt, and motion along the beam, tell of each
                pattern.
            correct_tilt: compare each pixel at the frequency that it sees, exactly; pixels beyond those of
                the model are left out (in CDTools they are compared with nothing).
            lens: with ``correct_tilt``: the detector is in the back focal plane of a lens.
            loss: see there.
            obj_padding: see there.
            obj_view_crop: see there.
            units: see there.
            surface_normal: of the sample (x, y, z), with the beam along z; comes before ``scattering_mode``.
            panel_plot_mode: see there.
            plot_level: see there.

        Raises:
            BadInput: what cannot be meant.
        """
        for name, value in {"propagate_probe": propagate_probe, "correct_tilt": correct_tilt}.items():
            if value not in (True, False):
                raise BadInput(f"from_dataset: {name}", value, "must be True or False")
        scan = lying(data_of("from_dataset", dataset).scan, scattering_mode, surface_normal)
        options = Options(
            randomize_ang=randomize_ang,
            n_modes=n_modes,
            translation_scale=translation_scale,
            saturation=saturation,
            probe_support_radius=probe_support_radius,
            probe_fourier_crop=_both(probe_fourier_crop),
            propagation_distance=propagation_distance,
            oversampling=oversampling,
            loss=loss,
            units=units,
            obj_padding=obj_padding,
            obj_view_crop=obj_view_crop,
            axial=propagate_probe and scan.heights is not None,
            ewald="none" if not correct_tilt else "lens" if lens else "flat",
        )
        return cls(*experiment(scan, options), scan)


def _both(crop: Any) -> int | None:
    """One number for rows and columns."""
    if crop is None or isinstance(crop, int):
        return crop
    numbers = {int(number) for number in np.atleast_1d(crop)} if np.ndim(crop) == 1 else set()
    if len(numbers) != 1:
        raise BadInput("from_dataset: probe_fourier_crop", crop, "must be the same for rows and columns")
    return numbers.pop()
