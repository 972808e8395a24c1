"""Projections against the sixteen constraints of PtyRAD 1.0.0, computed by it on random input.

Three of them are met as far as PtyRAD goes:

* ``kr_thresh`` has an inverse cosine transform that is none: scipy's is the reference instead;
* ``kr_filter`` stretches a square window over an oblong object by nearest neighbours, so that its
  columns are filtered differently to the left and to the right; stretched alike, ours agrees;
* ``probe_mask_r`` and ``obj_z_recenter`` fly with ``exp(i z kz)`` in float32, whose phase of
  ``2 pi z / wavelength`` is rounded, differently by each processor.
"""

from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import torch

from phaseloom.physics import filters
from phaseloom.physics.fourier import shift_to_centre, shift_to_corner
from phaseloom.ptycho import projections
from phaseloom.ptycho.projections import Setting

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "ptyrad_reference.npz")
GAP, WAVELENGTH = GOLDEN["prop/dz_lam"].tolist()
PIXEL = float(GOLDEN["optics/N_dx_kv_alpha"][1])
SETTING = Setting((PIXEL, PIXEL), WAVELENGTH, (GAP, GAP), (4, 4), 9.0)
PTYRAD = {"amplitude": "obja", "phase": "objp", "offsets": "probe_pos_shifts", "tilts": "obj_tilts"}


def part(constraint, side, name, dtype=torch.float64):
    """A part before (``in``) or after (``out``) a constraint; what it does not change, as elsewhere."""
    key = f"con/{constraint}/{side}/{PTYRAD.get(name, name)}"
    value = torch.as_tensor(GOLDEN[key if key in GOLDEN else f"con/obj_rblur/in/{PTYRAD[name]}"])
    return value.to(dtype.to_complex() if value.is_complex() else dtype)


def apart(ours, theirs):
    """Relative L2 distance."""
    return float((ours - theirs).abs().square().sum().sqrt() / theirs.abs().square().sum().sqrt())


CASES = {
    "obj_rblur": "lateral_blur",
    "obj_zblur": "depth_blur",
    "kz_filter": "missing_wedge",
    "complex_ratio": "complex_ratio",
    "mirrored_amp": "mirrored_amplitude",
}


class TestObject:
    @pytest.mark.parametrize("constraint", CASES)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_amplitude_and_phase(self, constraint, dtype):
        given = [part(constraint, "in", one, dtype) for one in ("amplitude", "phase")]
        out = getattr(projections, CASES[constraint])(*given)
        for one, ours in zip(("amplitude", "phase"), out, strict=True):
            assert ours.dtype == dtype
            if f"con/{constraint}/out/{PTYRAD[one]}" in GOLDEN:
                assert apart(ours, part(constraint, "out", one, dtype)) < 1e-6

    def test_thresholds(self):
        ours = projections.bounded_amplitude(part("obja_thresh", "in", "amplitude"))
        assert apart(ours, part("obja_thresh", "out", "amplitude")) < 1e-6
        ours = projections.positive(part("objp_postiv", "in", "phase"))
        assert apart(ours, part("objp_postiv", "out", "phase")) < 1e-6

    @pytest.mark.parametrize("name", ["amplitude", "phase"])
    def test_low_pass_stretched_as_ptyrad_does(self, name):
        given, wanted = part("kr_filter", "in", name), part("kr_filter", "out", name)
        rows, columns = given.shape[-2:]
        square = shift_to_centre(filters.sigmoid_window((rows, rows), radius=0.15, width=0.05, like=given))
        nearest = torch.arange(columns) * rows // columns
        stretched = shift_to_corner(square[:, nearest])
        ours = torch.fft.ifft2(torch.fft.fft2(given) * stretched).real
        assert apart(ours, wanted) < 1e-6

    def test_low_pass_where_the_stretching_does_not_show(self):
        """Rows summed: what is left varies only along the columns."""
        given = [part("kr_filter", "in", name) for name in ("amplitude", "phase")]
        for name, ours in zip(("amplitude", "phase"), projections.low_pass(*given), strict=True):
            assert apart(ours.sum(-1), part("kr_filter", "out", name).sum(-1)) < 1e-6

    @pytest.mark.parametrize("keep", [0.05, 0.3, 1.0])
    def test_strongest_cosines_are_those_of_scipy(self, keep):
        given = [part("kr_thresh", "in", name) for name in ("amplitude", "phase")]
        for one, ours in zip(given, projections.strongest_cosines(*given, keep=keep), strict=True):
            cosines = scipy.fft.dctn(one.numpy(), axes=(-2, -1), norm="ortho")
            order = np.argsort(np.abs(cosines).ravel())
            cosines.ravel()[order[: len(order) - round(keep * len(order))]] = 0
            wanted = scipy.fft.idctn(cosines, axes=(-2, -1), norm="ortho")
            np.testing.assert_allclose(ours.numpy(), wanted, atol=1e-12)


class TestProbe:
    def test_orthogonal_keeps_the_density_matrix(self):
        """The modes agree but for phases and rotation among equally strong ones."""
        ours = projections.orthogonal(part("ortho_pmode", "in", "probe")).flatten(1)
        theirs = part("ortho_pmode", "out", "probe").flatten(1)
        assert apart(ours.T @ ours.conj(), theirs.T @ theirs.conj()) < 1e-6
        torch.testing.assert_close(
            ours.abs().square().sum(1), theirs.abs().square().sum(1), rtol=1e-6, atol=0
        )
        assert apart(ours[:1].T @ ours[:1].conj(), theirs[:1].T @ theirs[:1].conj()) < 1e-6

    def test_power(self):
        ours = projections.power(part("fix_probe_int", "in", "probe"), SETTING)
        assert apart(ours, part("fix_probe_int", "out", "probe")) < 1e-6

    def test_aperture(self):
        ours = projections.aperture(part("probe_mask_k", "in", "probe"), radius=0.6)
        assert apart(ours, part("probe_mask_k", "out", "probe")) < 1e-6

    def test_support(self):
        given, wanted = part("probe_mask_r", "in", "probe"), part("probe_mask_r", "out", "probe")
        assert apart(projections.support(given, SETTING, radius=0.7), wanted) < 1e-3


class TestRest:
    def test_object_recentred_and_probe_with_it(self):
        given = torch.polar(*(part("obj_z_recenter", "in", one) for one in ("amplitude", "phase")))
        wanted = torch.polar(*(part("obj_z_recenter", "out", one) for one in ("amplitude", "phase")))
        probe = part("obj_z_recenter", "in", "probe")
        moved, flown = projections.recentre(given, probe, SETTING, percentile=80.0)
        assert apart(moved, wanted) < 1e-6
        carrier = part("obj_z_recenter", "out", "probe")
        carrier = carrier * torch.vdot(carrier.flatten(), flown.flatten()).sgn()
        assert apart(flown, carrier) < 1e-5

    def test_positions_and_tilts(self):
        ours = projections.still(part("pos_recenter", "in", "offsets"))
        assert apart(ours, part("pos_recenter", "out", "offsets")) < 1e-6
        ours = projections.smooth_tilts(part("tilt_smooth", "in", "tilts"), SETTING)
        assert apart(ours, part("tilt_smooth", "out", "tilts")) < 1e-6
