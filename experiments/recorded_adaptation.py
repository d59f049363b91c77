"""What a recorded adaptation is worth on a GPU: 50 episodes of made images, adapted to and answered, in turns with and without.

    python experiments/recorded_adaptation.py

84 px, k = 5, 10 steps, norm `support`; needs a GPU.
"""

import time
from collections.abc import Callable

import torch
import tyro

from rareshot import inner, machine
from rareshot.data.synthetic import separable
from rareshot.episodes import Episodes, EpisodeSpec
from rareshot.graphs import as_it_is
from rareshot.methods.maml import MAML
from rareshot.recorded import RecordedAdaptation, recorded_adaptation

EPISODES = 50
TURNS = 3


def main(threads: int = 2) -> None:
    """Print milliseconds an episode, three turns."""
    device = machine.use_device("cuda")
    machine.use_threads(threads)
    made = separable(84, lesions=40, seed=0)
    learner = MAML().untrained(made.common(), seed=0)
    sequence = Episodes(made, EpisodeSpec(2, 5, 15), seed=0)
    episodes = [sequence[i] for i in range(EPISODES)]
    method = learner.method
    plain = RecordedAdaptation(device, method.test_steps, method.inner_lr, method.norm, as_it_is)

    def milliseconds(adaptation: Callable[..., object]) -> float:
        inner.recorded_adaptation = adaptation  # type: ignore[assignment]
        learner.adapt(episodes[0].support)(episodes[0].query_x)  # libraries and graphs claim their memory
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for episode in episodes:
            learner.adapt(episode.support)(episode.query_x)
        return 1000 * (time.perf_counter() - begun) / EPISODES

    for _ in range(TURNS):
        print(f"recorded {milliseconds(recorded_adaptation):.1f}, not {milliseconds(lambda *_: plain):.1f}", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
