"""Train a restorer
================

A network learns from pairs of noisy and clean phases, is judged on images that it has not seen, and is
compared with methods without training.
"""

# %%
# Pairs
# -----
# Phases of atoms, and the same with noise whose power falls with the frequency, as in phases of few
# electrons.

import matplotlib.pyplot as plt
import numpy as np

import phaseloom as pl
from phaseloom.restoration import (
    Pair,
    Restore,
    RestorerTraining,
    evaluate_restorer,
    image_kinds,
    restore_image,
)

rng = np.random.default_rng(0)
size = 64
frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))


def make_pair(number: int) -> Pair:
    """A phase with noise, and without."""
    clean = pl.simulate.atoms((size, size), 0.25, peak=0.5, seed=number).sum(0)
    white = np.fft.fft2(rng.normal(size=clean.shape))
    noise = np.fft.ifft2(white / (0.1 + frequency)).real
    noisy = clean + 0.15 * noise / noise.std()
    return Pair(str(number), noisy[None].astype(np.float32), clean[None].astype(np.float32))


pairs, unseen = [make_pair(n) for n in range(24)], [make_pair(n) for n in range(100, 106)]

# %%
# Train
# -----
# A small U-Net. It begins as the identity, so it is never worse than the input at the start.

model = {"recommended": {"widths": [8, 16], "blocks": [1, 1], "heads": [1, 2], "refine": 0}}
tree = {"model": model, "task": "phase", "crops": 32, "epochs": 12, "batch": 8, "each": 4, "rate": 5e-3}
training = RestorerTraining.begin(Restore.of({**tree, "validation": 0.2}), pairs=pairs)
for epoch in training:
    if epoch.number % 4 == 0:
        print(epoch)

# %%
# Judge
# -----
# Baselines, tuned on the training pairs, are the measure: a network that a Gaussian beats is not worth its
# prior.

net = training.objective.net.eval()
evaluation = evaluate_restorer(net, image_kinds.phase(), unseen, learned=pairs)
print("\n".join(evaluation.lines()))

restored = restore_image(net, image_kinds.phase(), unseen[0].input)
figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="compressed")
images = {"measured": unseen[0].input, "restored, prior-dependent": restored.low, "truth": unseen[0].target}
for panel, (name, image) in zip(axes, images.items(), strict=True):
    panel.imshow(np.asarray(image)[0], cmap="gray", vmin=-0.3, vmax=0.6)
    panel.set_title(name)
    panel.set_axis_off()

# %%

gain, best = evaluation.gain
print(f"{gain:.1f} dB above {best}")
assert gain > 1
