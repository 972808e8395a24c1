"""Steps by fused kernels on a GPU are those of the plain path on the processor, for windows of many sizes."""

import numpy as np
import pytest
import torch

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.fitting import updates
from phaseloom.fitting.newton import GaussNewton
from phaseloom.ptycho import noise, objects, scans
from phaseloom.ptycho.curvature import Curvature
from phaseloom.ptycho.illumination import Probe
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.newton.on_gpu import GpuSteps

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

SHAPES = [(32, 32), (64, 64), (96, 96), (100, 64), (128, 128), (160, 160), (192, 192), (256, 256)]


def make_scan(shape, dtype):
    draw = np.random.default_rng(0)
    geometry = Geometry(wavelength=0.02, shape=shape, angle=(1e-3, 1e-3))
    places = np.stack(np.meshgrid(*[np.arange(6) * 4.0] * 2, indexing="ij"), -1).reshape(-1, 2)
    places = (places + draw.normal(0, 0.3, places.shape)) * np.array(geometry.pixel)
    y, x = (np.indices(shape) - np.array(shape)[:, None, None] // 2) / (np.array(shape)[:, None, None] / 5)
    rate = 100 * np.exp(-(y**2) - x**2) * draw.uniform(0.5, 1.5, (36, *shape))
    return Scan4D(counts=draw.poisson(rate).astype(dtype), positions=places, geometry=geometry)


def run(scan, slices, modes, device, kind="complex"):
    thickness = {"thickness": 20.0} if slices > 1 else {}
    thing = objects.pixels(scans.canvas(scan), slices=slices, kind=kind, **thickness)
    leaf = thing.phase if kind == "phase" else thing.wave
    torch.manual_seed(0)
    with torch.no_grad():
        drawn = torch.randn(2, *leaf.shape)
        phase = 0.2 * drawn[1]
        leaf.copy_(phase if kind == "phase" else torch.polar(1 + 0.05 * drawn[0], phase))
    model = Ptychography.of(scan, object=thing)
    beam = model.probe.modes().detach()
    weak = [0.2 * beam * torch.exp(1j * torch.randn(beam.shape)) for _ in range(modes - 1)]
    model.probe = Probe(torch.cat([beam, *weak]), scan.geometry)
    model.to(device).requires_grad_(False)
    moving = {
        "phase" if kind == "phase" else "object": (leaf, 0.2),
        "probe": (model.probe.relative, 0.2),
        "positions": (model.scan.offsets, 0.5),
        "affine": (model.scan.affine, 0.1),
    }
    groups = []
    for name, (parameter, rate) in moving.items():
        parameter.requires_grad_(True)
        lasting = {"start": 1, "stop": None}
        groups.append({"params": [parameter], "name": name, "lr": rate, "base": rate, **lasting})
    likelihood = Likelihood(model, scan, noise.poisson)
    optimizer = GaussNewton(groups, pull=0.1)
    optimizer.set_rules(Curvature(model, likelihood)([{"loss": 1.5, "holdout": None}] * 2), 0.9)
    leaf.touched = []
    steps = GpuSteps(model, likelihood, optimizer)
    batches = list(torch.randperm(36, generator=torch.Generator().manual_seed(1)).split(12))
    if device == "cuda":
        outcomes = steps(likelihood, batches, 2)
        assert outcomes is not None
    else:
        outcomes = updates._step_one_by_one(likelihood, batches, optimizer, 2, None, (), None)
    losses = [float(one.numbers[0]) for one in outcomes]
    return [torch.tensor(losses), *(parameter.detach().cpu() for parameter, _ in moving.values())]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("slices", "modes"), [(1, 1), (3, 2)])
def test_steps_are_those_of_the_processor(shape, slices, modes):
    scan = make_scan(shape, np.uint16 if slices == 1 else np.float32)
    both = (run(scan, slices, modes, device) for device in ("cuda", "cpu"))
    for ours, known in zip(*both, strict=True):
        assert (ours - known).abs().max() <= 1e-3 * known.abs().max()


@pytest.mark.parametrize("shape", [(64, 64), (96, 96), (128, 128)], ids=str)
def test_phases_move_as_on_the_processor(shape):
    both = (run(make_scan(shape, np.uint8), 3, 2, device, "phase") for device in ("cuda", "cpu"))
    for ours, known in zip(*both, strict=True):
        assert (ours - known).abs().max() <= 1e-3 * known.abs().max()
