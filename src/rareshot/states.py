"""States of a network: what fits, and a copy that carries it."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from rareshot.types import State

N = TypeVar("N", bound=nn.Module)


def refuse_other_state(own: State, state: State) -> None:
    """Refuse what is not a state of the same shapes.

    Raises:
        ValueError: if a weight is missing, superfluous, not finite, or has another shape.
    """
    told = misfit(own, state)
    if told:
        raise ValueError(f"state does not fit this method: {told}")
    for name, value in state.items():
        if not value.isfinite().all():
            raise ValueError(f"state holds numbers that are not finite, in {name}")


def misfit(own: State, state: State) -> str:
    """The first weight of another name, shape or kind than one's own, which may be on the device meta; "" where all fit."""
    if own.keys() != state.keys():
        return f"{sorted(own.keys() ^ state.keys())} are not in both"
    for name, value in state.items():
        if value.shape != own[name].shape or value.dtype != own[name].dtype:
            return f"{name} is {tuple(value.shape)} {value.dtype}, not {tuple(own[name].shape)} {own[name].dtype}"
    return ""


def carrying(net: N, state: State) -> N:
    """A copy of `net` whose parameters and buffers called as in `state` have those values."""
    other = copy.deepcopy(net)
    slots: dict[str, Tensor] = {**dict(other.named_parameters()), **dict(other.named_buffers())}
    with torch.no_grad():
        for name, value in state.items():
            if name in slots:
                slots[name].copy_(value)
    return other
