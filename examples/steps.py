"""
Watch a picture appear
======================

``sfumato.stream`` yields each step of the sampler. The estimate of the clean picture is blurred at
first, since at a high noise level many pictures are possible. It becomes sharp as the noise level
falls.
"""

import matplotlib.pyplot as plt

import sfumato
from sfumato import image

model = sfumato.load("icons")
estimates = []
for event in sfumato.stream("a red apple", sfumato.CreateOptions(seed=7, steps=12), model):
    if isinstance(event, sfumato.Made):
        made = event
    else:
        estimates.append(event.step)
        print(f"step {event.step.index + 1} of {event.steps}: noise level {event.step.sigma:.2f}")

# %% Decode the estimate of every second step, and show the finished picture last. ``apple.png``
# contains the settings of the picture, so ``sfumato create --again apple.png`` generates it again.

figure, axes = plt.subplots(1, 7, figsize=(10.5, 1.9))
for ax, step in zip(axes, estimates[::2], strict=False):
    ax.imshow(image.to_pictures(model.space.decode(step.denoised))[0])
    ax.set_title(f"noise {step.sigma:.2f}", fontsize=9)
axes[-1].imshow(made.picture)
axes[-1].set_title("picture", fontsize=9)
for ax in axes:
    ax.axis("off")
plt.show()

made.save("apple.png")
