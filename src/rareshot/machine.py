"""The machine: which instructions, how many threads, which device, and an allocator that keeps its memory."""

import ctypes
import os
from functools import cache

import torch

INSTRUCTIONS = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"}
"""What keeps torch's own loops and its convolutions (oneDNN) to AVX2, and its matrix products (MKL) to what rounds alike on
Intel's and AMD's CPUs, as MKL's AVX2 does not."""


def round_alike() -> bool:
    """Let torch compute by the instructions that all PCs have, so that they round alike; False where nothing was changed.

    A sum of 8 numbers at once is rounded otherwise than one of 16; training carries that on, and after 1000 iterations two
    networks are some points of AUC apart (docs/certainty.md, "Trained again"). To be called before torch computes anything. A
    CPU without AVX2 is left as it is, and so is a process for which one of these variables has been set: that one has chosen.
    """
    if any(name in os.environ for name in INSTRUCTIONS) or not torch.cpu._is_avx2_supported():
        return False
    os.environ.update(INSTRUCTIONS)
    return True


@cache
def keep_memory() -> None:
    """Tell glibc, where it is there, to keep freed blocks instead of giving them back to the system at every step.

    Every step of meta-training asks for the same large blocks again, and a page that was given back must be cleared
    anew.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library, or another system
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # numbers of <malloc.h>
    for option, value in ((mmap_threshold, 2**31 - 1), (trim_threshold, -1), (top_pad, 64 * 2**20)):
        mallopt(ctypes.c_int(option), ctypes.c_int(value))


def settle(threads: int | None) -> None:
    """What a command does before torch computes: `round_alike`, `keep_memory` and `use_threads`.

    Raises:
        ValueError: if `threads` is below 1.
    """
    round_alike()
    keep_memory()
    use_threads(threads)


def use_threads(threads: int | None) -> int:
    """Let torch use `threads` (None: the cores that this process may use); the number that it then uses.

    Raises:
        ValueError: if `threads` is below 1.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads={threads}: at least 1 is needed")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(threads or cores)
    return torch.get_num_threads()


_device = torch.device("cpu")


def use_device(name: str) -> torch.device:
    """Let training and adaptation compute on the device called `name`, see `pick_device`; the device.

    As with threads, it is a matter of the process and no part of a method. States, checkpoints and answers are on the CPU all
    the same.
    """
    global _device
    _device = pick_device(name)
    if _device.type == "cuda":
        # The same bits again on the same card, for a resumed run; and no TF32, which cuDNN takes unasked: its 10 bits of
        # mantissa would put every convolution 1e-3 away from what the CPU computes.
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return _device


def device() -> torch.device:
    """Where training and adaptation compute: what `use_device` said last, else the CPU."""
    return _device


def pick_device(name: str) -> torch.device:
    """The device called `name`; `auto` is the GPU where there is one.

    Raises:
        ValueError: if it is another, or not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise ValueError(
            f"device={name!r} is not a device that is used here; use auto, cpu or cuda (which of several GPUs: "
            f"CUDA_VISIBLE_DEVICES)"
        )
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name!r}, but torch sees no GPU here; use cpu")
    return torch.device(name)
