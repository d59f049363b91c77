"""The page's own words: plain, short, and honest about what it is."""

from html import escape

from rareshot.data.files import shown
from rareshot.predict import Predictor
from rareshot.web import limits

NEW = "new image"
DROP_NEW = "New images"
LEARNERS = {
    "isic2018-transfer": "Close-ups through a dermatoscope (learned from common skin lesions; not for commercial use)",
    "isic2018": "Close-ups through a dermatoscope: the smaller learner, more often wrong (not for commercial use)",
    "pretrained": "Any photographs (learned from everyday pictures)",
}
"""What the learners that come with rareshot are called on the page."""

INTRODUCTION = f"""
<header class="rs-head">
<h1>A few photographs teach it</h1>
<p>Give a few photographs of each of two or more conditions. It learns to tell them apart, and says of new images which
condition each is most like.</p>
<p class="rs-warning"><strong>For research only. This is not a medical device: do not decide about a patient by it.</strong></p>
<details><summary>What happens to my images?</summary>
<p>They stay on this machine, in this page’s own folder. Nothing is sent anywhere else. Nothing is kept: when you close or reload
the page, press “Start again”, or leave it alone for an hour, your images, and all that was made of them, are deleted. What
you download is yours to look after: <strong>the classifier holds your photographs in small</strong>.</p>
<p>At most: {limits.MOST_CONDITIONS} conditions, {limits.MOST_OF_A_CONDITION} photographs of each, {limits.MOST_SUPPORT} together;
{limits.MOST_NEW} new images at a time; {limits.megabytes(limits.MOST_BYTES)} a file. JPEG, PNG, TIFF, BMP, WEBP and GIF; DICOM
and HEIC where their extras are installed.</p></details>
</header>"""
PART_1 = """<h2>1. Your conditions</h2>
<p>Write the name of each condition and give 3 to 5 photographs of it. One is enough to begin. Only the centre square of a
photograph is looked at, so the condition should be in the middle.</p>"""
PART_2 = "<h2>2. Learn from them</h2>"
PART_3 = "<h2>3. New images</h2>"
PART_4 = "<h2>4. Answers</h2>"
CLASSIFIER = "Download the classifier (holds your photographs in small: treat it as patient data)"
PREDICTIONS = "Download the answers as a table (CSV)"
REPORT = "Download the report (one page, with the pictures)"
EXAMPLE = (
    "These pictures are synthetic: drawn by a program, three invented conditions, no patient. No learner has seen such drawings, "
    "so some of the answers below may be wrong."
)
MAPS = (
    "In each map, orange parts spoke for the answer and blue ones against it; beside it stand your photographs that look most "
    "like the image to the classifier. Neither says that the answer is right."
)
CLOSING = """<footer class="rs-foot"><p>The percentages say which of <em>your</em> conditions an image is most like. An image of
something else gets them too. rareshot, for research only; not a medical device.</p></footer>"""


def drop_support(number: int) -> str:
    """What stands in the field for a condition's photographs."""
    return f"Photographs of condition {number}"


def started_with(name: str, predictor: Predictor | None) -> str:
    """What stands in the place of parts 1 and 2 where the page began with a classifier."""
    counts = predictor.bundle.support.counts if predictor else {}
    told = "".join(f"<li>{escape(shown(one))}: {_photographs(count)}</li>" for one, count in counts.items())
    return (
        f"<h2>1 and 2. Already learned</h2><p>This page began with the classifier <strong>{escape(shown(name))}</strong>, which "
        f"knows:</p><ul>{told}</ul>"
    )


def learned(predictor: Predictor, seconds: float) -> str:
    """What was learned, and what comes next."""
    counts = predictor.bundle.support.counts
    told = ", ".join(f"{shown(name)} ({_photographs(count)})" for name, count in counts.items())
    return f"Learned in {seconds:.1f} s: {told}. Next: drop new images into part 3."


def _photographs(count: int) -> str:
    return "1 photograph" if count == 1 else f"{count} photographs"
