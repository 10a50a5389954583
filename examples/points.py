"""
Diffusion of points on a plane
==============================

Diffusion, the method that generates pictures, is used here on points of a plane, so that every step
can be seen.
A small network learns to denoise points of two rings. Sampling then moves points of pure noise,
step by step, onto the rings.
"""

import matplotlib.pyplot as plt
import numpy as np

from sfumato.tasks.points import PointsOptions, Walks, sample

rng = np.random.default_rng(0)
angles = rng.uniform(0, 2 * np.pi, 600)
radii = np.where(np.arange(600) % 2, 1.0, 2.0) + rng.normal(0, 0.05, 600)
rings = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)

options = PointsOptions(points=[(x, y, 1) for x, y in rings], training=1500, count=400, steps=20)
(walks,) = [event for event in sample(options) if isinstance(event, Walks)]
print(f"loss at the end of training: {walks.loss:.3f}")

figure, axes = plt.subplots(1, 4, figsize=(11, 2.9), layout="constrained")
for ax, k in zip(axes, (0, 8, 14, 20), strict=True):
    ax.scatter(*rings.T, s=2, color="lightgray")
    ax.scatter(*walks.paths[k].T, s=4)
    ax.set_title(f"noise level {walks.sigmas[k]:.2f}")
    ax.set(xlim=(-4, 4), ylim=(-4, 4), aspect="equal", xticks=[], yticks=[])
plt.show()
