"""What happens at each press: a session does the work, the page shows what came of it, step by step."""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rareshot.data.files import Observe
from rareshot.predict import Predictor
from rareshot.web import view, words
from rareshot.web.example import write_example
from rareshot.web.intake import discard, picture, uploaded
from rareshot.web.layout import Parts
from rareshot.web.session import REPORT, Session

T = TypeVar("T")
Updates = dict[Any, Any]
"""Component → its new value."""
Deed = Callable[..., Iterator[Updates]]
"""Session and inputs in, updates out, as often as there is something new to show."""
Files = Sequence[Mapping[str, Any]] | None
"""Uploaded files as Gradio describes them: path, orig_name."""
SHOW_S = 2.0
"""How often explanations are shown while more are made."""
STALE = "The photographs have changed: press “Learn” again."


class Deeds:
    """One method a button or field."""

    def __init__(self, parts: Parts, show: Callable[..., Any], learners: Sequence[str], uploads: Path) -> None:
        """For the page made of `parts`.

        Args:
            show: Gradio's `update`.
            learners: what a person may choose from.
            uploads: the folder that uploads lie in; resolved.
        """
        self.parts, self._show, self._learners, self._uploads = parts, show, learners, uploads

    def support(self, at: int) -> Deed:
        """Photographs are dropped for condition `at`."""

        def deed(session: Session, files: Files) -> Iterator[Updates]:
            uploads, had = uploaded(files or (), self._uploads), session.predictor is not None
            try:
                refused = session.add_support(at, uploads)
            finally:
                discard(uploads)
            card = self.parts.cards[at]
            yield {
                card.drop: None,
                card.shelf: view.shelf(session.conditions[at]),
                self.parts.support_said: view.refusals(refused),
                **self._unlearned(STALE if had else ""),
            }

        return deed

    def empty(self, at: int) -> Deed:
        """The photographs of condition `at` are removed."""

        def deed(session: Session) -> Iterator[Updates]:
            had = session.predictor is not None
            session.clear_support(at)
            yield {
                self.parts.cards[at].shelf: view.shelf([]),
                self.parts.support_said: "",
                **self._unlearned(STALE if had else ""),
            }

        return deed

    def remove(self, at: int) -> Deed:
        """Condition `at` is removed; those after it move up."""

        def deed(session: Session, *names: str) -> Iterator[Updates]:
            had = session.predictor is not None
            session.remove_condition(at)
            left = [*names[:at], *names[at + 1 :], ""]
            yield {**self._cards(session, left), self.parts.support_said: "", **self._unlearned(STALE if had else "")}

        return deed

    def add(self, session: Session) -> Iterator[Updates]:
        """One more condition is asked for."""
        session.add_condition()
        yield {
            self.parts.cards[len(session.conditions) - 1].frame: self._show(visible=True),
            self.parts.support_said: "",
        }

    def learn(self, session: Session, learner: str, *names: str) -> Iterator[Updates]:
        """It learns from the conditions."""
        parts, begun = self.parts, time.perf_counter()
        if learner not in self._learners:
            raise ValueError(f"{learner!r} is not a learner of this page; choose one of {', '.join(self._learners)}.")
        yield {**self._unlearned(""), parts.learned: view.working("Learning: waiting for its turn")}

        def work(observe: Observe) -> Predictor:
            return session.learn(learner, names, observe=observe)

        predictor = yield from _steps(work, parts.learned, "Learning: photographs read", "Learning")
        said = view.note(words.learned(predictor, time.perf_counter() - begun), "good")
        said += view.refusals([], [*predictor.bundle.support.cautions(), *predictor.cautions()])
        kept = view.link(session.token, "classifier.safetensors", words.CLASSIFIER)
        check = self._show(visible=predictor.bundle.shot > 1)
        yield {parts.learned: said, parts.classifier: kept, parts.check: check}

    def check(self, session: Session) -> Iterator[Updates]:
        """The labels are checked."""
        parts = self.parts
        found = session.suspects()
        support = session.learned().bundle.support
        names = [f"{support.classes[label]}: {name}" for label, name in zip(support.labels, support.names, strict=True)]
        pictures = [picture(image.permute(1, 2, 0).numpy()) for image in support.images]
        yield {parts.suspects: view.suspect_list(found, names, pictures)}

    def new(self, session: Session, files: Files) -> Iterator[Updates]:
        """New images are dropped."""
        uploads, parts = uploaded(files or (), self._uploads), self.parts
        try:
            refused = session.add_new(uploads)
        finally:
            discard(uploads)
        yield {
            parts.drop: None,
            parts.shelf: view.shelf(session.new, words.NEW),
            parts.new_said: view.refusals(refused),
            **self._unanswered(),
        }

    def clear_new(self, session: Session) -> Iterator[Updates]:
        """The new images are removed."""
        session.clear_new()
        yield {self.parts.shelf: view.shelf([], words.NEW), self.parts.new_said: "", **self._unanswered()}

    def judge(self, session: Session) -> Iterator[Updates]:
        """It judges the new images."""
        parts = self.parts
        yield {**self._unanswered(), parts.judged: view.working("Judging: waiting for its turn")}
        told = yield from _steps(
            lambda observe: session.judge(observe=observe), parts.judged, "Judging: images", "Judging"
        )
        predictor, photographs = session.judged(told)
        pictures = [photograph.thumbnail for photograph in photographs]
        yield {
            parts.answers: view.answer_cards(predictor.classes, told, pictures),
            parts.downloads: view.link(session.token, "predictions.csv", words.PREDICTIONS),
            parts.reporting: self._show(visible=True),
        }
        reasons: list[str] = []
        shown_at = time.monotonic()
        for at in range(len(told)):
            reasons.append(view.reasons(session.why(at)))
            if time.monotonic() - shown_at > SHOW_S or at == len(told) - 1:
                shown_at = time.monotonic()
                yield {
                    parts.judged: view.working("Answers are below. Looking for what spoke for each", at + 1, len(told)),
                    parts.answers: view.answer_cards(predictor.classes, told, pictures, reasons),
                }
        judged = "1 image judged." if len(told) == 1 else f"{len(told)} images judged."
        yield {parts.judged: view.note(f"{judged} {words.MAPS}", "good")}

    def report(self, session: Session) -> Iterator[Updates]:
        """A page to file is made."""
        where = self.parts.report
        yield {where: view.working("Making the report: waiting for its turn")}

        def work(observe: Observe) -> None:
            session.report(observe=observe)

        yield from _steps(work, where, "Making the report", "Making the report: nearly there")
        yield {where: view.link(session.token, REPORT, words.REPORT)}

    def example(self, session: Session, learner: str) -> Iterator[Updates]:
        """Everything once, with synthetic pictures."""
        parts = self.parts
        if session.new or any(session.conditions):
            raise ValueError("Your images would be replaced: press “Start again” first, then this button.")
        yield {parts.example_said: view.working("Drawing synthetic pictures: they show no patient")}
        example = write_example(session.folder / "example")
        while len(session.conditions) < len(example.conditions):
            session.add_condition()
        for at, uploads in enumerate(example.conditions.values()):
            session.add_support(at, uploads)
        session.add_new(example.new)
        discard([*example.new, *(one for uploads in example.conditions.values() for one in uploads)])
        names = [*example.conditions]
        yield {
            **self._cards(session, names),
            parts.shelf: view.shelf(session.new, words.NEW),
            parts.example_said: view.note(words.EXAMPLE, "good"),
        }
        yield from self.learn(session, learner, *names)
        yield from self.judge(session)

    def restart(self, session: Session) -> Iterator[Updates]:
        """Everything is deleted."""
        session.clear()
        yield {
            **self._cards(session, []),
            **self._unlearned(""),
            self.parts.check: self._show(visible=session.start is not None),
            self.parts.shelf: view.shelf([], words.NEW),
            self.parts.support_said: "",
            self.parts.new_said: "",
            self.parts.example_said: view.note("Everything is deleted.", "good"),
        }

    def _cards(self, session: Session, names: Sequence[str]) -> Updates:
        """All of part 1 as the session has it."""
        updates: Updates = {}
        for at, card in enumerate(self.parts.cards):
            held = session.conditions[at] if at < len(session.conditions) else []
            updates |= {
                card.frame: self._show(visible=at < len(session.conditions)),
                card.name: names[at] if at < min(len(names), len(session.conditions)) else "",
                card.shelf: view.shelf(held),
            }
        return updates

    def _unlearned(self, why: str) -> Updates:
        """Nothing below part 1 holds any more."""
        parts = self.parts
        hidden = {parts.check: self._show(visible=False)}
        return {parts.learned: view.note(why), parts.classifier: "", parts.suspects: "", **hidden, **self._unanswered()}

    def _unanswered(self) -> Updates:
        parts = self.parts
        hidden = {parts.reporting: self._show(visible=False), parts.report: ""}
        return {parts.judged: "", parts.answers: "", parts.downloads: "", **hidden}


def _steps(work: Callable[[Observe], T], where: Any, counted: str, after: str) -> Generator[Updates, None, T]:
    """Run `work` beside, and show in `where` how far it is.

    Args:
        counted: what its steps are called.
        after: what it does once they are all done.

    Raises:
        ValueError: and whatever else `work` raises.
    """
    steps: queue.Queue[tuple[int, int] | None] = queue.Queue()
    result: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work(lambda done, total: steps.put((done, total))))
        except BaseException as error:  # handed over to the thread that waits
            failed.append(error)
        finally:
            steps.put(None)

    threading.Thread(target=run, daemon=True).start()
    shown_at = 0.0
    while (step := steps.get()) is not None:
        done, total = step
        if done == total:
            yield {where: view.working(after)}
        elif time.monotonic() - shown_at > 0.2:
            shown_at = time.monotonic()
            yield {where: view.working(counted, done, total)}
    if failed:
        raise failed[0]
    return result[0]
