"""Every method beside DAML on the same episodes: paired differences, Holm's correction, critical differences of ranks."""

from collections.abc import Sequence

import numpy as np

from rareshot.evaluated import Array, Evaluation, same_episodes, scores_of
from rareshot.lesion_bootstrap import TooFewLesionsError, bootstrap_pairs_over_groups
from rareshot.paper_figures import critical_difference
from rareshot.report import Figure, Section
from rareshot.reporting.lines import EPISODES, Line, Part
from rareshot.reporting.tables import NONE, interval_text, points, saying
from rareshot.statistics import Interval, Paired, average_ranks, paired

RANKED_AT = 5
"""The k of the critical-difference plot: the paper's main one."""
HOLM = "p,\N{NO-BREAK SPACE}Holm"
Pairs = Sequence[tuple[Evaluation, Evaluation]]
"""A method's evaluation and DAML's, for each training seed that both have."""


def difference_sections(part: Part) -> list[Section]:
    """Paired differences in each protocol, with ranks where whole evaluations allow them; nothing without DAML."""
    if part.reference is None:
        return []
    sections = [_differences(part, protocol) for protocol in ("paper", "full")]
    return [section for section in [*sections, _ranks(part)] if section is not None]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's corrected p-values: the chance of any false alarm among all of them stays below the level.

    The i-th smallest of m is multiplied by m - i + 1, and none is smaller than one before it (Holm, Scandinavian Journal of
    Statistics 6, 1979).

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    for place, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[i]))
        corrected[i] = highest
    return corrected


def _differences(part: Part, protocol: str) -> Section | None:
    found: list[tuple[Line, int, Pairs, Paired]] = []
    unlike: dict[str, list[str]] = {}
    for line in part.lines:
        daml = part.reference_of(line)
        if daml is None:
            if line is not part.reference and any(line.at(shot, protocol) for shot in part.shots):
                unlike[line.label] = []
            continue
        for shot in part.shots:
            there = line.at(shot, protocol)
            pairs = _pairs(there, daml.at(shot, protocol))
            same = [(first, second) for first, second in pairs if same_episodes(first, second)]
            if there and (not same or len(same) < len(pairs)):
                unlike.setdefault(line.label, []).append(str(shot))
            same = [pair for pair in same if _count([pair]) >= 2]  # a seed that has just been begun takes none away
            if same:
                ours, theirs = (_mean(one, _count(same)) for one in zip(*same, strict=True))
                found.append((line, shot, same, paired(ours, theirs, kind="over episodes")))
    if not found:
        return None
    of_seeds = [_over_seeds(pairs) for _, _, pairs, _ in found]
    corrected = iter(holm([result.p_value for result in of_seeds if result]))
    over_lesions = [_over_lesions(pairs[0], _count(pairs)) for _, _, pairs, _ in found]
    rows = []
    for (line, shot, pairs, result), seeds, lesions in zip(found, of_seeds, over_lesions, strict=True):
        rows.append(
            (
                line.label,
                str(shot),
                points(100 * result.mean),
                ", ".join(str(second.seed) for _, second in pairs),
                ", ".join(points(100 * value) for value in _each_seed(pairs)) if seeds else NONE,
                interval_text(seeds.interval if seeds else None),
                _p(seeds.p_value) if seeds else NONE,
                _p(next(corrected)) if seeds else NONE,
                interval_text(lesions),
                interval_text(result.interval),
                _p(result.p_value),
                str(_count(pairs)),
            )
        )
    header = (
        "Method",
        "k",
        "Difference",
        "training seeds",
        "each seed",
        "95 % over seeds",
        "p over seeds",
        HOLM,
        f"95 % over {part.group}s",
        "95 % over episodes",
        "p over episodes",
        "Episodes",
    )
    damls = {daml.label for line, *_ in found if (daml := part.reference_of(line))}
    several = len(damls) > 1
    daml_name = "DAML" if several else next(iter(damls))
    tests = sum(result is not None for result in of_seeds)
    shorter = dict.fromkeys(line.label for line, _, pairs, _ in found if _count(pairs) < EPISODES)
    left = "; ".join(" at k = ".join(filter(None, (label, ", ".join(ks)))) for label, ks in unlike.items())
    lesions_words = f"The interval over {part.group}s, of the first seed, asks for other {part.group}s to be judged."
    text = f"""
    Mean AUC of each method minus that of {daml_name}, in points, on the same episodes of the {protocol} protocol and of the
    training seeds that both have; what trains nothing is the same in all of them. Below 0, {daml_name} is better. p is of the
    paired t test.
    {f"Of {', '.join(sorted(damls))} each line is compared with the one of its own settings." if several else ""}

    Which method is better is asked of the training seeds: each seed gives one difference, and two seeds or more an interval
    and a p. {f"Holm's correction counts these tests of the table: {tests}." if tests else ""} With one seed there is none:
    trained again, the order may turn.

    {lesions_words if any(over_lesions) else ""} The interval over episodes, seeds averaged first, and p with it, only ask whether
    these very networks would differ on other episodes drawn from the same {part.group}s.

    {f"Only the first episodes, those that both methods have, count for {'; '.join(shorter)}." if shorter else ""}

    {f"Left out, since no DAML here has the same k, training seed, episodes and settings: {left}." if unlike else ""}
    """
    caption = f"Difference to {daml_name}. {part.name}; points of AUC, {protocol} protocol"
    return Section(f"Differences to DAML, {protocol} protocol ({part.name})", text, table=saying(caption, header, rows))


def _ranks(part: Part) -> Section | None:
    """By the protocol by which more methods have all their episodes, `full` if it is the same."""
    asked = [(protocol, *_whole(part, protocol)) for protocol in ("full", "paper")]
    asked = [(protocol, whole, seeds) for protocol, whole, seeds in asked if len(whole) > 1]
    if not asked:
        return None
    protocol, whole, seeds = max(asked, key=lambda found: (bool(found[2]), len(found[1])))
    heading = f"Ranks over episodes, {protocol} protocol, k = {RANKED_AT} ({part.name})"
    if not seeds and not all(found[0].of_every_seed for _, found in whole):
        return Section(
            heading, f"Not drawn: no training seed is common to {'; '.join(line.label for line, _ in whole)}."
        )
    of_seeds = [[each for each in found if each.seed in seeds or each.of_every_seed] for _, found in whole]
    matrix = np.array([_mean(found, EPISODES) for found in of_seeds]).T
    ranks, distance = average_ranks(matrix)
    ranked = [line for line, _ in whole]
    left = [line.label for line in part.lines if line not in ranked and line.at(RANKED_AT, protocol)]
    named = f"training seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, sorted(seeds)))}"
    text = f"""
    In each of the {EPISODES} episodes the methods are ranked by AUC. Methods whose mean ranks lie further apart than Nemenyi's
    critical difference can be told apart at the 5 % level (Demšar 2006). That test takes the episodes for independent; they
    share their {part.group}s, so it finds differences more readily than other patients would. Only methods with all {EPISODES}
    episodes, the same ones, are ranked{f", by {named}; of another training the ranks say nothing" if seeds else ""}.
    {f"Not ranked: {'; '.join(left)}." if left else ""}
    """
    words = f"{part.name}, {protocol} protocol, k = {RANKED_AT}{f', {named}' if seeds else ''}."
    caption = f"{words} Bars on the right join methods that cannot be told apart."
    places = {line.label: float(rank) for line, rank in zip(ranked, ranks, strict=True)}
    drawn: Figure = critical_difference(places, distance, EPISODES, caption)
    return Section(heading, text, [drawn])


def _whole(part: Part, protocol: str) -> tuple[list[tuple[Line, list[Evaluation]]], set[int]]:
    """Lines with what was evaluated on all episodes, the same as those of the first, and the seeds that all of them have."""
    found = [
        (line, [each for each in line.at(RANKED_AT, protocol) if len(each.results) >= EPISODES]) for line in part.lines
    ]
    found = [(line, evaluations) for line, evaluations in found if evaluations]
    found = [(line, evaluations) for line, evaluations in found if same_episodes(found[0][1][0], evaluations[0])]
    seeds = [{each.seed for each in evaluations} for _, evaluations in found if not evaluations[0].of_every_seed]
    return found, set.intersection(*seeds) if seeds else set()


def _pairs(first: Sequence[Evaluation], second: Sequence[Evaluation]) -> Pairs:
    if first and first[0].of_every_seed:
        return [(first[0], each) for each in second]
    seeds = {each.seed: each for each in second}
    return [(each, seeds[each.seed]) for each in first if each.seed in seeds]


def _mean(evaluations: Sequence[Evaluation], count: int) -> Array:
    """AUC of each of the first episodes, averaged over training seeds."""
    mean: Array = np.mean([each.aucs[:count] for each in evaluations], axis=0)
    return mean


def _each_seed(pairs: Pairs) -> list[float]:
    """Mean difference of each training seed."""
    count = _count(pairs)
    return [float((first.aucs[:count] - second.aucs[:count]).mean()) for first, second in pairs]


def _over_seeds(pairs: Pairs) -> Paired | None:
    """None with a single seed."""
    each = _each_seed(pairs)
    return paired(each, [0.0] * len(each), kind="over seeds") if len(each) > 1 else None


def _count(pairs: Pairs) -> int:
    """Episodes that all of them have."""
    return min(len(each.results) for pair in pairs for each in pair)


def _over_lesions(pair: tuple[Evaluation, Evaluation], count: int) -> Interval | None:
    """Of the first `count` episodes.

    None where what was said of each image was not kept or is still being written, or the lesions are too few.
    """
    if not all(each.finished and each.over_lesions is not None for each in pair):
        return None
    scores = [scores_of(each) for each in pair]
    if scores[0] is None or scores[1] is None:
        return None
    try:
        return bootstrap_pairs_over_groups(scores[0][:count], scores[1][:count])
    except TooFewLesionsError:
        return None


def _p(value: float) -> str:
    return "<\N{NO-BREAK SPACE}0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.01 else f"{value:.2f}"
