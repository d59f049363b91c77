"""One person's session: the conditions, what was learned from them, the new images and the answers. No page in sight.

Its files lie in a folder of its own, which goes when the session ends. Every method may be called from any thread: one at a
time is let in, and once the session has ended none is.
"""

import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from rareshot.answer_page import answer_page
from rareshot.answer_page.why import Why, why
from rareshot.bundle import save_bundle
from rareshot.data.decode import decode
from rareshot.data.files import Observe, ignore
from rareshot.predict import Answer, Predictor, adapt_to, answer, find_learner
from rareshot.predictions import write_answers
from rareshot.support_set import SupportSet
from rareshot.trust import Suspects
from rareshot.web.conditions import by_name
from rareshot.web.intake import Photograph, Upload, take
from rareshot.web.limits import MOST_CONDITIONS, MOST_NEW, MOST_OF_A_CONDITION, MOST_SUPPORT, no_room

REPORT = "report.html"
CHANGED = "The images have changed: press “Judge the new images” again."


class EndedError(ValueError):
    """The session is over, and everything in it deleted."""

    def __init__(self) -> None:
        super().__init__(
            "This session has ended, because the page was closed, lost its connection or stood idle for an hour; its images "
            "are deleted. Reload the page to begin anew."
        )


class Session:
    """What one person has given and been told."""

    def __init__(self, folder: Path, start: Predictor | None = None) -> None:
        """Begin in an empty folder.

        Args:
            folder: made here; nothing is written outside it.
            start: a classifier to begin with, instead of conditions.
        """
        self.folder = folder
        self.token = secrets.token_urlsafe(24)
        """Whoever knows it may download this session's files; nobody can guess it."""
        self.conditions: list[list[Photograph]] = [[], []]
        self.new: list[Photograph] = []
        self.start = start
        self.predictor = start
        self.told: list[Answer] = []
        self.touched = time.monotonic()
        self.ended = False
        self._lock = threading.RLock()
        self._removed = 0
        for inside in ("support", "new", "out"):
            (folder / inside).mkdir(parents=True, mode=0o700)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other thread is in the session.

        Raises:
            EndedError: if it has ended.
        """
        with self._lock:
            self.refuse_ended()
            self.touched = time.monotonic()
            yield
            self.touched = time.monotonic()

    def refuse_ended(self) -> None:
        """Go no further for somebody who has left.

        Raises:
            EndedError: if the session has ended.
        """
        if self.ended:
            raise EndedError

    def add_condition(self) -> None:
        """One more, still without a photograph.

        Raises:
            ValueError: if there are as many as the page can show.
        """
        with self.alone():
            if len(self.conditions) >= MOST_CONDITIONS:
                raise ValueError(
                    f"There are {MOST_CONDITIONS} conditions, the most that this page takes; for more use `rareshot adapt`."
                )
            self.conditions.append([])

    def remove_condition(self, at: int) -> None:
        """Without condition `at` and its photographs; what was learned is forgotten.

        Raises:
            ValueError: if another was removed while this waited, or there is none at `at`.
        """
        with self._as_numbered(at):
            self._removed += 1
            for photograph in self.conditions.pop(at):
                photograph.file.unlink()
            while len(self.conditions) < 2:
                self.conditions.append([])
            self._forget()

    def add_support(self, at: int, uploads: Sequence[Upload]) -> list[str]:
        """Photographs for condition `at`; why some were not taken. What was learned before is forgotten.

        Raises:
            ValueError: as `remove_condition`.
        """
        with self._as_numbered(at):
            taken, refused = take(uploads, self.folder / "support")
            self._forget()
            held = self.conditions[at]
            for photograph in taken:
                if len(held) >= MOST_OF_A_CONDITION:
                    refused.append(_sent_away(photograph, "a condition", MOST_OF_A_CONDITION))
                elif sum(map(len, self.conditions)) >= MOST_SUPPORT:
                    refused.append(_sent_away(photograph, "the page", MOST_SUPPORT))
                else:
                    held.append(photograph)
            return refused

    def clear_support(self, at: int) -> None:
        """Without the photographs of condition `at`.

        Raises:
            ValueError: as `remove_condition`.
        """
        with self._as_numbered(at):
            for photograph in self.conditions[at]:
                photograph.file.unlink()
            self.conditions[at] = []
            self._forget()

    def add_new(self, uploads: Sequence[Upload]) -> list[str]:
        """New images to be judged; why some were not taken."""
        with self.alone():
            taken, refused = take(uploads, self.folder / "new")
            self._forget_answers()
            for photograph in taken:
                if len(self.new) >= MOST_NEW:
                    refused.append(_sent_away(photograph, "one go", MOST_NEW))
                else:
                    self.new.append(photograph)
            return refused

    def clear_new(self) -> None:
        """Without new images and answers."""
        with self.alone():
            for photograph in self.new:
                photograph.file.unlink()
            self.new = []
            self._forget_answers()

    def clear(self) -> None:
        """As at the beginning."""
        with self.alone():
            while len(self.conditions) > 2:
                self.remove_condition(0)
            for at in (0, 1):
                self.clear_support(at)
            self.clear_new()
            for file in (self.folder / "out").iterdir():
                file.unlink()

    def learn(self, learner: str, names: Sequence[str], *, observe: Observe = ignore) -> Predictor:
        """Adapt to the conditions, as `rareshot adapt` does to folders of these names: the same bits.

        Args:
            learner: as `rareshot.predict.load` takes it.
            names: one a condition, at least.
            observe: called with (read, all) after each photograph.

        Raises:
            ValueError: naming the condition and the way out, or as `rareshot.predict.adapt_to`.
        """
        with self.alone():
            self._forget()
            named = by_name(self.conditions, names)
            size = find_learner(learner)[0].size
            photographs = [(label, one) for label, (_, held) in enumerate(named) for one in held]
            pixels = []
            for done, (_, photograph) in enumerate(photographs, 1):
                pixels.append(decode(photograph.file, size))
                observe(done, len(photographs))
                self.refuse_ended()
            support = SupportSet(
                torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(),
                torch.tensor([label for label, _ in photographs]),
                tuple(name for name, _ in named),
                tuple(photograph.name for _, photograph in photographs),
            )
            self.predictor = adapt_to(learner, support)
            return self.predictor

    def judge(self, *, observe: Observe = ignore) -> list[Answer]:
        """The answer on each new image, as `rareshot predict` gives it: the same bits.

        Raises:
            ValueError: if nothing was learned, or there is no new image.
        """
        with self.alone():
            predictor = self.learned()
            self._forget_answers()
            if not self.new:
                raise ValueError("There is no new image yet: drop at least one into part 3.")
            told = []
            for photograph in self.new:
                told.append(replace(answer(predictor, str(photograph.file)), path=photograph.name))
                observe(len(told), len(self.new))
                self.refuse_ended()
            self.told = told
            return told

    def judged(self, told: Sequence[Answer]) -> tuple[Predictor, list[Photograph]]:
        """What gave these answers, and the image of each.

        Raises:
            ValueError: if they are not the newest any more.
        """
        with self.alone():
            if self.told is not told:
                raise ValueError(CHANGED)
            return self.learned(), list(self.new)

    def why(self, at: int) -> Why:
        """The pictures for the answer on new image `at`.

        Raises:
            ValueError: if there is no such answer any more.
        """
        with self.alone():
            if at >= len(self.told):
                raise ValueError(CHANGED)
            pixels = torch.from_numpy(decode(self.new[at].file, self.learned().size)).permute(2, 0, 1).contiguous()
            return why(self.learned(), pixels, self.told[at].predicted)

    def report(self, *, observe: Observe = ignore) -> None:
        """Make the page to file, for `download`.

        Raises:
            ValueError: if there is no answer to report.
        """
        with self.alone():
            if not self.told:
                raise ValueError("There is no answer to report yet: press “Judge the new images” first.")

            def step(done: int, total: int) -> None:
                self.refuse_ended()
                observe(done, total)

            page = answer_page(self.learned(), [str(one.file) for one in self.new], self.told, observe=step)
            (self.folder / "out" / REPORT).write_text(page, encoding="utf-8")

    def learned(self) -> Predictor:
        """What was learned.

        Raises:
            ValueError: if nothing was.
        """
        if self.predictor is None:
            raise ValueError("Nothing is learned yet: give photographs in part 1, then press “Learn” in part 2.")
        return self.predictor

    def suspects(self) -> Suspects:
        """The photographs by how little their own label is expected by the others.

        Raises:
            ValueError: if there are too few photographs for that.
        """
        with self.alone():
            bundle = self.learned().bundle
            if bundle.shot < 2:
                raise ValueError("Labels can be checked only with 2 photographs of each condition or more: add some.")
            return self.learned().suspects()

    def download(self, name: str) -> Path | None:
        """A file for the person to keep, made now; None where there is nothing to give.

        Args:
            name: a key of `DOWNLOADS`.
        """
        with self.alone():
            make = DOWNLOADS.get(name)
            return make(self, self.folder / "out" / name) if make else None

    def end(self) -> None:
        """Delete everything: the folder, the pictures, what was learned. Work that is under way stops at its next step."""
        self.ended = True
        with self._lock:
            self.conditions, self.new, self.told, self.predictor, self.start = [], [], [], None, None
            shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def _as_numbered(self, at: int) -> Iterator[None]:
        """As `alone`, if `at` still means the condition that it meant when the call came."""
        removed = self._removed
        with self.alone():
            if removed != self._removed or at >= len(self.conditions):
                raise ValueError("The conditions have changed meanwhile: look at part 1, and do it again.")
            yield

    def _forget(self) -> None:
        self.predictor = self.start
        self._forget_answers()

    def _forget_answers(self) -> None:
        self.told = []
        (self.folder / "out" / REPORT).unlink(missing_ok=True)


def _sent_away(photograph: Photograph, room: str, most: int) -> str:
    photograph.file.unlink()
    return no_room(photograph.name, room, most)


def _classifier(session: Session, file: Path) -> Path | None:
    return save_bundle(file, session.predictor.bundle) if session.predictor else None


def _predictions(session: Session, file: Path) -> Path | None:
    return write_answers(file, session.predictor.classes, session.told) if session.predictor and session.told else None


def _report(session: Session, file: Path) -> Path | None:
    return file if file.is_file() else None


DOWNLOADS: dict[str, Callable[[Session, Path], Path | None]] = {
    "classifier.safetensors": _classifier,
    "predictions.csv": _predictions,
    REPORT: _report,
}
"""Name of the file that the person gets → what makes it."""
