"""Cluster a scan by an autoencoder
================================

A polar film has four domains and vacuum beside it. An autoencoder turns each pattern into four numbers, and
clusters of these are a map of the film. Its first numbers are principal components, which so short a training
hardly improves.
"""

# %%
# A simulated film
# ----------------
# Nanobeam patterns of 200 kV and 3.5 mrad, with labels of the domain of each position.

import matplotlib.pyplot as plt
import numpy as np

from phaseloom.embedding import Autoencode, AutoencoderTraining, find_clusters
from phaseloom.embedding.film import polar_film
from phaseloom.metrics.clusters import adjusted_rand, standardise_columns

film = polar_film(grid=(24, 24), step=9.0, pixels=32)
labels = np.asarray(film.labels).ravel()
figure, axes = plt.subplots(1, 4, figsize=(10, 2.8), layout="constrained")
for panel, number in zip(axes, (30, 200, 350, 540), strict=True):
    panel.imshow(np.log1p(film.scan.counts[number]), cmap="magma")
    panel.set_title(f"domain {labels[number]}")
    panel.set_axis_off()

# %%
# Train
# -----
# The network begins as principal components of stabilised counts and learns what these leave. Blocks of the
# scan are held out.

model = {"recommended": {"latent_dim": 4, "width": 8}}
training = AutoencoderTraining.begin(Autoencode.of({"model": model, "block": 4, "epochs": 4}), scan=film.scan)
for epoch in training:
    print(epoch)

# %%
# Latents and clusters
# --------------------

latents, misfit, counts = training.objective.net, None, None
latents, _ = training.objective.reconstruct(np.arange(len(film.scan)))
rows = standardise_columns(np.asarray(latents))
kinds, _ = find_clusters(rows, 5, film.scan.positions, truth=labels)
for kind in kinds:
    print(kind)

figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="compressed")
maps = {"first latent": rows[:, 0], "clusters": kinds[0].labels, "domains": labels}
for panel, (name, values) in zip(axes, maps.items(), strict=True):
    panel.imshow(np.asarray(values).reshape(24, 24), cmap="gray" if name == "first latent" else "tab10")
    panel.set_title(name)
    panel.set_axis_off()

# %%
# The adjusted Rand index is 1 for equal partitions and 0 for chance.

index = max(adjusted_rand(one.labels, labels) for one in kinds)
print(f"adjusted Rand index {index:.2f}")
assert index > 0.35
