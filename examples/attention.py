"""
Which word draws which part
===========================

``sfumato.trace`` generates a picture and records the run. The attention weights of a token show
where in the picture the network uses this token. Here they are averaged over all steps and all
layers. "red" and "car" act on the car. "wheels", the last word of the prompt, acts on the
background: the text encoder's attention is causal, so its output for a late word also describes
the words before it, and the network can use this output for any part of the picture.
"""

import matplotlib.pyplot as plt
import torch

import sfumato

trace = sfumato.trace("a red car with black wheels", sfumato.CreateOptions(seed=2))
print("tokens:", *(word.piece for word in trace.words))
maps = torch.stack([step.attention for step in trace.steps]).mean(dim=(0, 1))  # (T + 1, a, b)

figure, axes = plt.subplots(1, 4, figsize=(8, 2.3))
axes[0].imshow(trace.made.picture)
axes[0].set_title("picture")
shown = [word for word in trace.words if word.piece in ("red", "car", "wheels")]
for ax, word in zip(axes[1:], shown, strict=True):
    ax.imshow(trace.made.picture.convert("L"), cmap="gray", extent=(0, 1, 0, 1), alpha=0.5)
    ax.imshow(maps[word.place], cmap="inferno", extent=(0, 1, 0, 1), alpha=0.6)
    ax.set_title(f'"{word.piece}"')
for ax in axes:
    ax.axis("off")
plt.show()
