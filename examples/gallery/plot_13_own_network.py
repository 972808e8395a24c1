"""A network of your own in the model
==================================

The object of a reconstruction need not be pixels. Here a small convolutional network makes it (a deep image
prior), and its weights are what the counts determine: `Misfit` and `torch.optim` do the rest.
"""

# %%
# A scan of few electrons
# -----------------------

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn

import phaseloom as pl
from phaseloom.physics.detect import intensity
from phaseloom.physics.fourier import shift, shift_to_centre
from phaseloom.physics.patches import gather
from phaseloom.physics.propagate import far_field

pixel, window = 0.2, 32
places = pl.simulate.raster((12, 12), 0.7, jitter=0.05) + (window // 2 + 4) * pixel
truth = pl.simulate.atoms((80, 80), pixel, peak=0.4)
optics = {"energy": 80e3, "semiangle": 0.035, "defocus": 60.0, "window": window}
scan, waves = pl.simulate.electron_scan(truth, pixel, places, dose=1e3, **optics)

# %%
# The model
# ---------
# It reads as the experiment: a phase from the network, windows of it under the beam, the far field, counts.


class NetworkModel(nn.Module):
    """Patterns of a thin object that a network draws from fixed noise."""

    def __init__(self, wave: Tensor, positions: Tensor, size: int, width: int = 24):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("wave", wave)
        self.register_buffer("positions", positions)
        self.register_buffer("noise", torch.randn(1, 8, size, size, generator=generator))
        torch.manual_seed(0)
        layers = [nn.Conv2d(8, width, 5, padding=2), nn.SiLU()]
        layers += [nn.Conv2d(width, width, 5, padding=2), nn.SiLU(), nn.Conv2d(width, 1, 3, padding=1)]
        self.network = nn.Sequential(*layers)

    def phase(self) -> Tensor:
        """Phase ``(y, x)``, radian."""
        return self.network(self.noise)[0, 0]

    def forward(self, index: Tensor) -> Tensor:
        """Expected counts ``(b, y, x)``, centred."""
        phase = self.phase()
        transmission = torch.polar(torch.ones_like(phase), phase)[None]
        whole = self.positions[index].round()
        beam = shift(self.wave[None, None], (self.positions[index] - whole)[:, None])
        windows = gather(transmission, whole.long() - window // 2, (window, window))
        return shift_to_centre(intensity(far_field(beam * windows)))


wave = torch.as_tensor(waves[0] * np.sqrt(1e3)).to(torch.complex64)
model = NetworkModel(wave, torch.as_tensor(places / pixel, dtype=torch.float32), truth.shape[-1])

# %%
# Fit the weights
# ---------------
# `Misfit` compares the counts with those of any module: 1 is shot noise.

misfit = pl.Misfit(model, scan, pl.noise.poisson)
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
generator = torch.Generator().manual_seed(0)
losses = []
for _ in range(40):
    for batch in torch.randperm(len(scan), generator=generator).split(24):
        optimizer.zero_grad()
        loss = misfit(batch)["noise"]
        loss.backward()
        optimizer.step()
    losses.append(loss.item())

# %%
# Beside pixels
# -------------
# The usual reconstruction of the same counts, with the same known probe. It has nearly no prior, and is
# still the better one here: such a network is a place to begin.

probe = {"focused": {"semiangle": "35 mrad", "defocus": "60 A", "modes": 1}}
rates = {"probe": 0, "positions": 0, "affine": 0}
tree = {"probe": probe, "rates": rates, "start": "none", "preset": "none", "epochs": 20}
result = pl.reconstruct(pl.Reconstruct.of(tree), scan=scan)

rows, columns = result.window
top, left = np.round(np.array(result.origin) / pixel).astype(int)
field = (slice(rows.start + top, rows.stop + top), slice(columns.start + left, columns.stop + left))
images = {"pixels": result.phase[rows, columns], "network": model.phase().detach().numpy()[field]}
known = truth.sum(0)[field]
figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="compressed")
for panel, (name, image) in zip(axes, {**images, "truth": known}.items(), strict=True):
    panel.imshow(image - np.median(image), cmap="gray", vmin=-0.2, vmax=0.4)
    panel.set_title(name)
    panel.set_axis_off()

# %%

found = {name: pl.metrics.phase.phase_error(image, known).pearson for name, image in images.items()}
print({name: round(value, 3) for name, value in found.items()}, f"loss {losses[-1]:.2f}")
assert losses[-1] < 1.1
assert found["network"] > 0.7
