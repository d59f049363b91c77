"""How things look: HTML of one idea each. Every text that came from a person is escaped."""

from collections.abc import Sequence
from html import escape

from rareshot.answer_page.why import Why
from rareshot.data.files import shown
from rareshot.predict import Answer
from rareshot.trust import Suspects
from rareshot.web.intake import Photograph

SHOWN_SUSPECTS = 10


def note(text: str, kind: str = "note") -> str:
    """A line that says what happened; read out by screen readers.

    Args:
        kind: note, good, or bad (a mistake, with the way out).
    """
    if not text:
        return ""
    role = "alert" if kind == "bad" else "status"
    return f'<p class="rs-note rs-{kind}" role="{role}">{escape(text)}</p>'


def working(text: str, done: int = 0, total: int = 0) -> str:
    """Progress; without a total, that something is under way."""
    value = f' value="{done}" max="{total}"' if total else ""
    count = f" {done} of {total}" if total else ""
    return (
        f'<div class="rs-note rs-note" role="status">{escape(text)}{count}'
        f'<progress aria-label="{escape(text)}"{value}></progress></div>'
    )


def refusals(lines: Sequence[str], cautions: Sequence[str] = ()) -> str:
    """Files that were not taken, each with its reason, and what to be careful about."""
    told = ""
    if lines:
        count = "1 file was" if len(lines) == 1 else f"{len(lines)} files were"
        told += (
            f'<div class="rs-note rs-bad" role="alert"><p>{count} not taken:</p><ul>{_items(lines)}</ul><p>Instead of a file '
            f"that cannot be read choose another, or save it again as a JPEG or PNG of usual size.</p></div>"
        )
    if cautions:
        told += f'<div class="rs-note rs-caution" role="status"><p>Be careful:</p><ul>{_items(cautions)}</ul></div>'
    return told


def shelf(photographs: Sequence[Photograph], what: str = "photograph") -> str:
    """Small pictures in a row, with their names."""
    if not photographs:
        return f'<p class="rs-empty">No {what} yet.</p>'
    figures = "".join(
        f'<li><img src="{one.thumbnail}" alt="{_named(one.name)}" title="{_named(one.name)}" width="72" height="72"></li>'
        for one in photographs
    )
    count = f"1 {what}" if len(photographs) == 1 else f"{len(photographs)} {what}s"
    return f'<p class="rs-count">{count}</p><ul class="rs-shelf">{figures}</ul>'


def link(token: str, name: str, text: str) -> str:
    """A file to keep.

    Args:
        text: what it is.
    """
    return f'<p><a class="rs-link" href="/download/{token}/{name}" download="{name}">{escape(text)}</a></p>'


def answer_cards(
    classes: Sequence[str], told: Sequence[Answer], pictures: Sequence[str], extras: Sequence[str] = ()
) -> str:
    """One card an answer: the picture, a bar a condition, and reasons to mistrust it.

    Args:
        pictures: data addresses, one an answer.
        extras: HTML below each, one an answer, or none.
    """
    more = [*extras, *[""] * (len(told) - len(extras))]
    cards = (
        f'<article class="rs-card"><h3>{_named(one.path)}</h3><div class="rs-two">'
        f'<img src="{picture}" alt="the new image {_named(one.path)}" width="96" height="96">'
        f"{_bars(classes, one)}</div>{_warnings(one)}{extra}</article>"
        for one, picture, extra in zip(told, pictures, more, strict=True)
    )
    return f'<div class="rs-answers">{"".join(cards)}</div>'


def reasons(why: Why) -> str:
    """The map of an answer, and the photographs that look most like its image."""
    near = "".join(
        f'<li><img src="{one.image}" alt="" width="44" height="44"><span>{_named(one.label)}<br>'
        f"<small>{_named(one.name)}, alike {one.similarity}</small></span></li>"
        for one in why.nearest
    )
    return (
        f'<div class="rs-two rs-why"><img src="{why.map}" alt="map: what spoke for the answer" width="96" height="96">'
        f'<div><p>looks most like</p><ul class="rs-near">{near}</ul></div></div>'
    )


def suspect_list(found: Suspects, names: Sequence[str], pictures: Sequence[str]) -> str:
    """The photographs by suspicion, the least expected first."""
    first = found.order.tolist()[:SHOWN_SUSPECTS]
    rows = "".join(
        f'<li><img src="{pictures[at]}" alt="" width="48" height="48"> {100 * float(found.own[at]):.0f} % '
        f"{_named(names[at])}</li>"
        for at in first
    )
    rest = len(names) - len(first)
    more = f"<p>and {rest} that fit better</p>" if rest else ""
    if found.warning:
        more += (
            f'<p class="rs-note rs-caution"><strong>{_named(names[first[0]])}</strong> fits its condition worse than the worst '
            f"photograph does in 9 of 10 clean sets of common diseases.</p>"
        )
    return (
        f'<div class="rs-note rs-note" role="status"><p>How probable each photograph’s own condition is by its likeness to the '
        f"others. Look at the first ones again: is their condition right? With few photographs even right ones can be "
        f'low.</p><ol class="rs-suspects">{rows}</ol>{more}</div>'
    )


def _bars(classes: Sequence[str], one: Answer) -> str:
    if not one.probabilities:
        return ""
    rows = "".join(
        f"<li{' class=rs-best' if name == one.predicted else ''}><span>{_named(name)}</span><span>{100 * value:.1f} %</span>"
        f'<span class="rs-bar"><span style="width:{100 * value:.1f}%"></span></span></li>'
        for name, value in sorted(zip(classes, one.probabilities, strict=True), key=lambda pair: -pair[1])
    )
    return (
        f'<div><p class="rs-best-line">most like <strong>{_named(one.predicted)}</strong></p>'
        f'<ul class="rs-bars" aria-label="probabilities">{rows}</ul></div>'
    )


def _warnings(one: Answer) -> str:
    return f'<ul class="rs-caution">{_items(one.warnings)}</ul>' if one.warnings else ""


def _items(lines: Sequence[str]) -> str:
    return "".join(f"<li>{escape(line)}</li>" for line in lines)


def _named(name: str) -> str:
    return escape(shown(name), quote=True)
