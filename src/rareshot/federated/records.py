"""States as Flower carries them."""

from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord

from rareshot.types import State

STATE, CONFIG = "state", "config"
"""Names of a message's two parts."""
LARGEST = 2**31
"""Most bytes that are read of an answer."""


def arrays_of(state: State) -> ArrayRecord:
    """To send."""
    return ArrayRecord({name: Array(value.detach().cpu().contiguous().numpy()) for name, value in state.items()})


def state_of(arrays: Any) -> State:
    """What was sent; whether it fits is for `refuse_other_state`.

    Raises:
        ValueError: if it is no numbers.
    """
    if sum(len(array.data) for array in arrays.values()) > LARGEST:
        raise ValueError(f"a state of more than {LARGEST} bytes is not read")
    state = {}
    for name, array in arrays.items():
        try:
            values = array.numpy()
        except (TypeError, ValueError, EOFError, OSError, MemoryError) as error:
            raise ValueError(f"{name} is no array ({error})") from error
        if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
            raise ValueError(f"{name} is no array of floating point numbers")
        state[str(name)] = torch.from_numpy(values.copy())
    return state
