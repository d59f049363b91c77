"""`rareshot export CLASSIFIER`: an adapted classifier for machines without torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rareshot.commands.options import parse
from rareshot.commands.terminal import CONSOLE
from rareshot.data.files import shown
from rareshot.export import NEAR, export, refuse_missing
from rareshot.machine import settle
from rareshot.predict import load_classifier


@dataclass(frozen=True)
class Export:
    """Write a classifier of `rareshot adapt` as one ONNX file, for onnxruntime and without torch: images in, probabilities out.

    Standardisation, adapted weights and softmax are inside; adaptation is not: the file is one adapted task, and holds no
    photograph. It is written only if it gives the probabilities of `rareshot predict`, to 1e-5, on the support images and on
    noise. docs/export.md says how an image is cut and resized first. Research use, not a medical device.

    Needs the extra: pip install 'rareshot[onnx]'

    Example: rareshot export lesions.safetensors --out lesions.onnx
    """

    classifier: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CLASSIFIER")]
    """A file of `rareshot adapt`."""
    out: Path
    """The model's file, new; its name ends in .onnx."""


def export_command(args: Sequence[str]) -> None:
    """Parse and run `rareshot export`."""
    options = parse(Export, args, "rareshot export")
    settle(1)
    if options.out.suffix.lower() != ".onnx":
        raise ValueError(f"--out {options.out}: the model goes into a file whose name ends in .onnx")
    if options.out.exists():
        raise ValueError(f"{options.out} is there already; choose another --out, or remove it first")
    refuse_missing()
    predictor = load_classifier(options.classifier)
    export(predictor, options.out)
    size = predictor.size
    for text in (
        f"classes: {', '.join(map(shown, predictor.classes))}",
        f"images (n, {size}, {size}, 3) uint8 RGB → probabilities (n, {len(predictor.classes)}) float32",
        f"checked in onnxruntime: the probabilities of `rareshot predict` to {NEAR:.0e}, on the support images and on noise",
        f"model: {options.out} (holds no photograph, but numbers made from them)",
    ):
        CONSOLE.print(text, markup=False, soft_wrap=True)
