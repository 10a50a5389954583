"""
Corruptions, and how the networks undo them
===========================================

Every restorer is a denoising autoencoder: it was trained to undo a corruption. Here a photo is
corrupted in five ways, and the bundled networks restore it. The title of each column is the
corruption as a string, such as ``noise:40``. ``sfumato.parse`` and ``--corruption`` of ``sfumato
train`` accept the same strings.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

import sfumato
from sfumato import image
from sfumato.metrics import psnr

photo = Image.fromarray(load_sample_image("flower.jpg")[120:376, 200:456])
clean = image.to_tensor(photo)
strokes = sfumato.parse("mask:strokes").draw(clean, torch.Generator().manual_seed(0))
hidden = strokes.apply(torch.ones(1, 1, 256, 256))[0, 0].numpy() == 0
Image.fromarray(hidden).save("strokes.png")

# each corruption, and the options of ``sfumato.restore`` that undo it
undo = {
    "noise:40": {"denoise": 40},
    "jpeg:10": {"dejpeg": 10},
    "mask:strokes": {"fill": "strokes.png"},
    "down:2": {"enlarge": 2},
    "gray": {"colorize": True},
}
figure, rows = plt.subplots(2, len(undo), figsize=(8, 3.5))
for (before, after), (name, how) in zip(rows.T, undo.items(), strict=True):
    damaged = sfumato.parse(name)(clean, generator=torch.Generator().manual_seed(0)).y
    values = image.to_pictures(damaged.expand(-1, 3, -1, -1))[0]
    options = sfumato.RestoreOptions(**how)
    restored = sfumato.restore(sfumato.Photo(np.asarray(values)), options).photo.values
    print(f"{name}: PSNR {psnr(restored, np.asarray(photo)):.1f} dB after restoration")
    before.imshow(values)
    after.imshow(restored)
    before.set_title(name, fontsize=9)
    before.axis("off")
    after.axis("off")
plt.show()

# %%
# The photo comes with scikit-learn: "Flower" by vultilion, CC BY 2.0.
