"""Copy a trained model into the package, with its styles and attributions.

Checkpoints, previews, caches and TensorBoard logs are not copied.

python recipes/icons/bundle.py build/icons/model src/sfumato/pretrained/icons
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

STYLES = {
    "fluent": "Fluent 3D emoji",
    "fluent-flat": "Fluent flat emoji",
    "noto": "Noto emoji",
    "blob": "classic Noto blob emoji",
    "twemoji": "Twemoji flat emoji",
    "emojione": "EmojiOne emoji",
    "firefox": "Firefox emoji",
    "cartoon": "Streamline cartoon emoji",
    "clipart": "clip art drawing",
    "sketch": "hand-drawn sketch icon",
    "outline": "bold black outline icon with blue fill",
    "detailed": "detailed outline colour icon",
    "pastel": "flat pastel icon",
    "flat-blue": "flat blue icon",
    "indigo": "indigo outline icon",
    "navy": "navy outline icon",
    "flat-color": "flat colour icon",
    "gradient": "Fluent gradient icon",
    "weather": "filled weather icon",
    "sticker": "colourful sticker",
}
PARTS = (
    "unet",
    "vae",
    "text_encoder",
    "tokenizer",
    "scheduler",
    "matcher",
    "upscaler",
    "fast",
)

LEFT_BEHIND = ("checkpoint*", "previews", "cache", "tensorboard")


def main(source: str, target: str) -> None:
    """Copy the parts and write sfumato.json."""
    folder = Path(target)
    for part in PARTS:
        shutil.rmtree(folder / part, ignore_errors=True)
        shutil.copytree(
            Path(source) / part,
            folder / part,
            ignore=shutil.ignore_patterns(*LEFT_BEHIND),
        )
    shutil.copy(Path(source) / "model_index.json", folder)
    shutil.copy(Path(source).parent / "attribution.csv", folder)
    defaults = {
        "steps": 8,
        "guidance_scale": 4.0,
        "needs_prompt": True,
        "style": "fluent-flat",
        "styles": STYLES,
        "description": "64x64 emoji, clip art and icons from a text; a small Stable Diffusion",
        "license": "Apache-2.0; trained on pictures under MIT, Apache-2.0, CC0 and CC-BY-4.0, see "
        "README.md",
    }
    (folder / "sfumato.json").write_text(json.dumps(defaults, indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
