"""Generate a picture, print every sampler step, and save the picture with its settings."""

from pathlib import Path

import sfumato
from sfumato import metadata
from sfumato.sampler.registry import SAMPLERS

options = sfumato.CreateOptions(seed=7, steps=8)
for event in sfumato.stream("a red apple", options):
    if isinstance(event, sfumato.Made):
        label = SAMPLERS[event.settings["sampler"]].label
        metadata.save(
            event.picture,
            Path("apple.png"),
            event.settings,
            metadata.parameters(event.settings, label),
        )
        print(f"apple.png, seed {event.seed}, {event.seconds:.2f} s")
    else:
        step = event.step
        print(
            f"step {step.index + 1} of {event.steps}: sigma {step.sigma:.2f}, standard deviation "
            f"of the "
            f"estimate {float(step.denoised.std()):.2f}"
        )
