"""
One network, every amount of noise
==================================

A diffusion model is a denoising autoencoder that was trained at every noise level. Add noise to a
picture at several levels and let the network estimate the clean picture. With little noise, the
estimate is the picture. With much noise, the network can use only the text, and the estimate is an
average of all red apples.
"""

import matplotlib.pyplot as plt
import torch

import sfumato
from sfumato import image
from sfumato.sampler.ode import level

model, prompt = sfumato.load("icons"), "a red apple"
picture = sfumato.create(prompt, sfumato.CreateOptions(seed=7), model)[0].picture

levels = (0.3, 1.0, 2.0, 4.0, 10.0)
figure, rows = plt.subplots(2, len(levels), figsize=(8, 3.6))
with torch.inference_mode():
    z = model.space.encode(image.to_tensor(picture))
    condition, _ = model.text([prompt], picture.size)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    for k, sigma in enumerate(levels):
        noisy = z + sigma * noise
        estimate = model.denoiser(noisy, level(sigma, noisy), condition)
        error = float((estimate - z).square().mean())
        print(f"noise level {sigma:4.1f}: squared error of the estimate {error:.3f}")
        shrunk = noisy / (1 + sigma**2) ** 0.5  # scaled to the variance of clean latents
        for row, latents in zip(rows, (shrunk, estimate), strict=True):
            row[k].imshow(image.to_pictures(model.space.decode(latents))[0])
            row[k].axis("off")
        rows[0, k].set_title(f"noise {sigma:g}", fontsize=9)
plt.show()
