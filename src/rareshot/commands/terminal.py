"""What every command needs of a terminal: a console, a progress bar, and a stop that leaves things whole."""

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from unicodedata import category

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment


def printable(text: str) -> str:
    """With escapes for what a terminal would obey, but for line breaks: names in a text may be a stranger's."""
    return "".join(ascii(each)[1:-1] if category(each) in UNSAFE and each != "\n" else each for each in text)


UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's categories of what is obeyed, not drawn: control characters, directions, halves of a pair, separators."""


class _Terminal(Console):
    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            safe = segment.text if segment.control else printable(segment.text)
            yield segment if safe == segment.text else Segment(safe, segment.style)


# emoji: a file called photo:a:1.jpg is no picture.
CONSOLE = _Terminal(highlight=False, markup=False, emoji=False)
"""For answers, on standard output."""
STATUS = _Terminal(stderr=True, highlight=False, markup=False, emoji=False)
"""For progress, on standard error: answers can be piped."""


class StoppedError(Exception):
    """SIGINT or SIGTERM came; what was done is saved."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class Stop:
    """Remembers that SIGINT or SIGTERM came, so that work can end at a place where nothing is lost."""

    def __init__(self) -> None:
        self.number = 0

    def raise_if_asked(self) -> None:
        """Raise `StoppedError` if a signal came."""
        if self.number:
            raise StoppedError(self.number)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """While open, the first SIGINT or SIGTERM is remembered; a second one acts as it always does."""
    stop = Stop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def remember(number: int, frame: FrameType | None) -> None:
        stop.number = number
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, remember)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def columns() -> tuple[ProgressColumn, ...]:
    """Of a bar: what, how far, a note, the time that it took and that is left."""
    return (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[..., None]]:
    """A progress bar with the time left; call it with (done, note="")."""
    with Progress(*columns(), console=STATUS) as bar:
        task = bar.add_task(title, total=total or None, note="")

        def show(done: int, total: int = total, note: str = "") -> None:
            bar.update(task, completed=done, total=total or None, note=note)

        yield show


@contextmanager
def data_progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that appears only when there is work to show."""
    with ExitStack() as stack:
        bar: list[Callable[..., None]] = []

        def show(done: int, total: int) -> None:
            if not bar:
                bar.append(stack.enter_context(progress(title, total)))
            bar[0](done, total)

        yield show


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for each stage that is named: call it with (stage, done, total)."""
    columns = (
        TextColumn("{task.description:<28}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=STATUS) as bar:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield show
