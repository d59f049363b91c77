"""States as Flower carries them."""

from typing import Any

import torch
from flwr.app import Array, ArrayRecord

from rareshot.types import State

STATE, CONFIG = "state", "config"
"""Names of a message's two parts."""
HEAD = 4096
"""Most bytes that an array has beside its numbers."""


def arrays_of(state: State) -> ArrayRecord:
    """To send."""
    return ArrayRecord({name: Array(value.detach().cpu().contiguous().numpy()) for name, value in state.items()})


def state_of(arrays: Any, own: State) -> State:
    """What was sent; whether the numbers are good ones is for `refuse_other_state`.

    Args:
        own: a state of the names and sizes that are expected; what has others is not opened.

    Raises:
        ValueError: if it is no such state.
    """
    if set(arrays) != set(own):
        raise ValueError(f"a state of {len(own)} weights was expected, and {len(arrays)} came, or others")
    state = {}
    for name, value in own.items():
        if len(arrays[name].data) > value.nbytes + HEAD:
            raise ValueError(f"{name} has {len(arrays[name].data)} bytes; {value.nbytes} and a head were expected")
        try:
            state[name] = torch.from_numpy(arrays[name].numpy().copy())
        except (
            Exception
        ) as error:  # numpy reads a stranger's bytes: it raises ten kinds of error, BadZipFile among them
            raise ValueError(f"{name} is no array of numbers ({type(error).__name__})") from error
    return state
