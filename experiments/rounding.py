"""Does this CPU round as others do? A few iterations of each kind of training, and a digest of the weights.

    python experiments/rounding.py --cpu "Zen 4" --out results/rounding.jsonl
    MKL_CBWR=AVX2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 python experiments/rounding.py --cpu "Zen 4" --out …

Needs no data: the pictures are made. Appends one line: the CPU, the instructions that were asked for (`rareshot.machine`), and
the digest by method. Equal digests are equal bits. Another kind of CPU may be emulated, at a hundredth of the speed:
`qemu-x86_64 -cpu Haswell-v4 python experiments/rounding.py --cpu "Haswell, emulated" …`.
"""

import json
import os
from pathlib import Path

import tyro

from rareshot.checkpoint import state_hash
from rareshot.data.synthetic import synthetic
from rareshot.losses import DifficultyAware
from rareshot.machine import INSTRUCTIONS, settle
from rareshot.methods.maml import MAML
from rareshot.methods.protonet import ProtoNet
from rareshot.methods.relation import RelationNet
from rareshot.methods.supervised import Supervised
from rareshot.run_record import versions
from rareshot.types import Method


def main(cpu: str, out: Path, iterations: int = 2, size: int = 32) -> None:
    """Train and append.

    Args:
        cpu: what it is, in words.
        out: JSON lines.
        iterations: of each method.
        size: of the pictures, in pixels.
    """
    settle(1)
    images = synthetic(size, lesions=16).common()
    methods: dict[str, Method] = {
        "features": Supervised(iterations=iterations, held_out=0.0),
        "protonet": ProtoNet(shot=1, iterations=iterations, warmup=1, held_out=0.0),
        "relation": RelationNet(shot=1, iterations=iterations, warmup=1, held_out=0.0),
        "daml": MAML(meta_loss=DifficultyAware(), shot=1, iterations=iterations, warmup=1, held_out=0.0),
    }
    digests = {name: state_hash(method.fit(images, seed=0).state())[:16] for name, method in methods.items()}
    asked = {name: os.environ.get(name, "") for name in INSTRUCTIONS}
    about = {"cpu": cpu, "asked": asked, "versions": versions()}
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a") as lines:
        lines.write(json.dumps({**about, "size": size, "iterations": iterations, "digests": digests}) + "\n")
    print(f"{cpu}: {digests}")


if __name__ == "__main__":
    tyro.cli(main)
