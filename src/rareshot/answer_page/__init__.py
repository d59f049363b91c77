"""A page to file: what a classifier said of some images, why, what would change it, and how it was made (not in the paper).

One HTML file that loads nothing and holds no date: the same classifier, images and answers give the same page, byte for byte.
Pictures are written anew from their pixels, so nothing that a photograph's file says of a patient comes along; its name does.
"""

from collections import Counter
from collections.abc import Sequence

from rareshot.answer_page import facts
from rareshot.answer_page.cards import Card, card, faint_rows
from rareshot.answer_page.words import listed, named, number
from rareshot.data.files import Observe, ignore
from rareshot.predict import Answer, Predictor
from rareshot.report import rendered
from rareshot.sensitivity import views_of

MOST_MAPS = 50
"""Images with their picture, map and nearest support images; those beyond have their probabilities in a table."""
OUTSIDE = "Classes outside these are not considered: an image of something else gets one of these names too."
RESEARCH = "For research use. Not a medical device."


def answer_page(
    predictor: Predictor, files: Sequence[str], told: Sequence[Answer], *, observe: Observe = ignore
) -> str:
    """The page, as text.

    Args:
        files: where each image is read from again, in the order of `told`.
        told: the answers of this predictor; `path` is what an image is called on the page.
        observe: called with (done, all) as the work goes on.

    Raises:
        ValueError: if there is no answer, files and answers differ in number, or a file has changed since it was judged.
    """
    if not told or len(files) != len(told):
        raise ValueError(f"a page needs one file for each answer; got {len(files)} files and {len(told)} answers")
    judged = [(file, one) for file, one in zip(files, told, strict=True) if one.probabilities]
    total = 3 + len(judged)
    views = views_of(predictor, observe=lambda done, _: observe(done, total))
    cards: list[Card] = []
    for at, (file, one) in enumerate(judged):
        cards.append(card(views, file, one, whole=at < MOST_MAPS))
        observe(3 + len(cards), total)
    refused = [(named(one.path), "; ".join(map(named, one.warnings))) for one in told if not one.probabilities]
    return rendered(
        "answer.html",
        title=f"{number(len(judged), 'image')} judged as {listed(predictor.classes, 'or')}",
        lead=_lead(predictor, judged, len(refused)),
        outside=OUTSIDE,
        research=RESEARCH,
        cautions=[*map(named, predictor.cautions()), *predictor.bundle.support.cautions()],
        cards=cards[:MOST_MAPS],
        rest=faint_rows(cards[MOST_MAPS:]),
        size=predictor.size,
        most=MOST_MAPS,
        classes=[named(name) for name in predictor.classes],
        refused=refused,
        ranges=facts.ranges(views),
        promise=predictor.promise() if predictor.sets else "",
        changes=facts.changes(views, cards),
        support=facts.support(predictor),
        suspicion=facts.suspicion(predictor),
        making=facts.making(predictor),
    )


def _lead(predictor: Predictor, judged: Sequence[tuple[str, Answer]], refused: int) -> str:
    counts = Counter(one.predicted for _, one in judged)
    found = ", ".join(f"{count} {named(name)}" for name, count in counts.most_common()) or "none could be read"
    unread = f" {number(refused, 'file')} could not be read." if refused else ""
    bundle = predictor.bundle
    return (
        f"Most probable class: {found}.{unread} Each image was judged by itself, by the learner {named(bundle.learner)} "
        f"adapted to {number(len(bundle.support.images), 'support image')} of {len(bundle.classes)} classes."
    )
