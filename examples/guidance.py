"""
How closely to follow the text
==============================

With a guidance scale of 1, the model samples from all pictures that fit the text, including
pictures in which the object is unclear. Larger scales exaggerate the difference that the text
makes (classifier-free guidance): the object becomes clearer, then its colors become too strong.
"""

import matplotlib.pyplot as plt

import sfumato

model, scales, seeds = sfumato.load("icons"), (1, 2, 4, 8, 16), (1, 2, 3)
figure, rows = plt.subplots(len(seeds), len(scales), figsize=(7.5, 4.8))
for row, seed in zip(rows, seeds, strict=True):
    for ax, scale in zip(row, scales, strict=True):
        options = sfumato.CreateOptions(seed=seed, guidance_scale=scale)
        ax.imshow(sfumato.create("a blue fish", options, model)[0].picture)
        ax.set_title(f"scale {scale}" if seed == seeds[0] else "")
        ax.axis("off")
plt.show()
print(f"{len(seeds) * len(scales)} pictures; each row starts from the same noise")
