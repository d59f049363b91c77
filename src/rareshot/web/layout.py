"""What stands on the page, top to bottom."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rareshot.predict import Predictor
from rareshot.web import limits, view, words


@dataclass(frozen=True)
class Card:
    """One condition on the page."""

    frame: Any
    name: Any
    drop: Any
    shelf: Any
    empty: Any
    remove: Any


@dataclass(frozen=True)
class Parts:
    """The components that deeds write into."""

    cards: tuple[Card, ...]
    learner: Any
    support_said: Any
    learned: Any
    classifier: Any
    check: Any
    suspects: Any
    drop: Any
    shelf: Any
    new_said: Any
    judged: Any
    answers: Any
    downloads: Any
    reporting: Any
    report: Any
    example_said: Any

    @property
    def of_support(self) -> list[Any]:
        """All that part 1 shows."""
        return [
            self.support_said,
            *(one for card in self.cards for one in (card.frame, card.name, card.drop, card.shelf)),
        ]

    @property
    def of_learning(self) -> list[Any]:
        """All that part 2 shows."""
        return [self.learned, self.classifier, self.check, self.suspects]

    @property
    def of_new(self) -> list[Any]:
        """All that part 3 shows."""
        return [self.new_said, self.drop, self.shelf]

    @property
    def of_answers(self) -> list[Any]:
        """All that part 4 shows."""
        return [self.judged, self.answers, self.downloads, self.reporting, self.report]


def lay_out(gr: Any, learners: Sequence[str], start: str, given: Predictor | None) -> tuple[Parts, dict[str, Any]]:
    """All components, top to bottom."""
    buttons: dict[str, Any] = {}
    gr.HTML(words.INTRODUCTION)
    with gr.Row():
        buttons["example"] = gr.Button("Show me with synthetic pictures", elem_id="example", visible=not start)
        buttons["restart"] = gr.Button("Start again: delete everything", elem_id="restart")
    example_said = gr.HTML(elem_id="example-said", padding=False)
    with gr.Column(visible=not start):
        gr.HTML(words.PART_1)
        learner = gr.Radio(
            [(words.LEARNERS.get(one, f"the learner {Path(one).name}"), one) for one in learners],
            value=learners[0] if learners else None,
            label="What kind of photographs?",
            elem_id="learner",
        )
        cards = tuple(_card(gr, number, shown=number <= 2) for number in range(1, limits.MOST_CONDITIONS + 1))
        support_said = gr.HTML(elem_id="support-said", padding=False)
        buttons["add"] = gr.Button("Add a condition", elem_id="add")
        gr.HTML(words.PART_2)
        buttons["learn"] = gr.Button("Learn", variant="primary", elem_id="learn")
    if start:
        gr.HTML(words.started_with(start, given))
    cautions = [*given.bundle.support.cautions(), *given.cautions()] if given else []
    learned = gr.HTML(view.refusals([], cautions), elem_id="learned", padding=False)
    classifier = gr.HTML(elem_id="classifier", padding=False)
    check = gr.Button("Check the labels", visible=bool(start), elem_id="check")
    suspects = gr.HTML(elem_id="suspects", padding=False)
    gr.HTML(words.PART_3)
    drop = gr.File(file_count="multiple", label=words.DROP_NEW, height=170, elem_id="new-drop")
    shelf = gr.HTML(view.shelf([], words.NEW), elem_id="new-shelf", padding=False)
    new_said = gr.HTML(elem_id="new-said", padding=False)
    with gr.Row():
        buttons["judge"] = gr.Button("Judge the new images", variant="primary", elem_id="judge")
        buttons["clear"] = gr.Button("Remove the new images", elem_id="clear")
    gr.HTML(words.PART_4)
    judged = gr.HTML(elem_id="judged", padding=False)
    downloads = gr.HTML(elem_id="downloads", padding=False)
    reporting = gr.Button("Make a report to keep", visible=False, elem_id="reporting")
    report = gr.HTML(elem_id="report", padding=False)
    answers = gr.HTML(elem_id="answers", padding=False)
    gr.HTML(words.CLOSING)
    of_learning = (support_said, learned, classifier, check, suspects)
    of_answers = (new_said, judged, answers, downloads, reporting, report, example_said)
    return Parts(cards, learner, *of_learning, drop, shelf, *of_answers), buttons


def _card(gr: Any, number: int, *, shown: bool) -> Card:
    with gr.Group(visible=shown, elem_id=f"condition-{number}", elem_classes="rs-condition") as frame:
        name = gr.Textbox(
            label=f"Name of condition {number}",
            placeholder="for example: dermatofibroma",
            max_length=200,
            elem_id=f"name-{number}",
        )
        drop = gr.File(file_count="multiple", label=words.drop_support(number), height=150, elem_id=f"drop-{number}")
        shelf = gr.HTML(view.shelf([]), elem_id=f"shelf-{number}", padding=False)
        with gr.Row():
            empty = gr.Button(f"Remove the photographs of condition {number}", size="sm", elem_id=f"empty-{number}")
            remove = gr.Button(f"Remove condition {number}", size="sm", elem_id=f"remove-{number}")
    return Card(frame, name, drop, shelf, empty, remove)
