"""How fast is it, and how fast could it be? Our meta-gradient beside the machine's limit and every library that is installed.

A design is one way to compute the meta-gradient of a few tasks. In this order:

1. floor: exact operation counts over the measured convolution rates of this machine, which gives the least time;
2. gate: the gradient of each design in float64 against the textbook loop; a design that fails is listed and not timed;
3. the rest, with what has passed: time of a step, memory, scaling, data path, meta-test.

Every design meets the same network, tasks, allocator and cores, and the designs of a round run one after the other, so
that a noisy minute hits them all. No part of the package needs this one. Begin reading
in `run`.
"""
