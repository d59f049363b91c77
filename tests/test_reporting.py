"""The report: the right figures in the right cells, scales apart, hostile names as text, nothing written half."""

import json
import math
import re
import shutil
import subprocess
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_results import ROWS, made_run, write_evaluation, write_log
from test_report import HOSTILE, Checked

from rareshot.cli import main
from rareshot.evaluation import query_scores
from rareshot.gathered import gather
from rareshot.lesion_bootstrap import bootstrap_pairs_over_groups
from rareshot.paper_figures import critical_difference
from rareshot.report import Section, Table
from rareshot.reporting import report
from rareshot.reporting.differences import HOLM, difference_sections, holm
from rareshot.reporting.lines import Part, parts_of
from rareshot.reporting.making import making_section
from rareshot.reporting.tables import table_sections
from rareshot.reporting.training import fine_tuning_sections, training_sections
from rareshot.reporting.twins import twin_sections
from rareshot.results import read_queries
from rareshot.run_record import write_run
from rareshot.scales import at_scale
from rareshot.statistics import average_ranks, interval, paired
from rareshot.tables_text import latex, markdown


def _part(folder: Path) -> Part:
    (part,) = parts_of(gather(folder))
    return part


def _cell(section: Section, row: str, column: str) -> str:
    """The one cell of a row, by its first cell, under a heading."""
    assert section.table is not None
    (cells,) = [cells for cells in section.table.rows if cells[0].replace("\xa0", " ") == row]
    return cells[[name.replace("\xa0", " ") for name in section.table.header].index(column)].replace("\xa0", " ")


def _auc(file: Path) -> np.ndarray:
    return np.array([json.loads(line)["metrics"]["auc"] for line in file.read_text().splitlines()[1:]])


def _named(sections: Sequence[Section], start: str) -> Section:
    (found,) = [section for section in sections if section.heading.startswith(start)]
    return found


def test_table_has_the_papers_figure_the_mean_over_seeds_and_their_difference(tmp_path: Path) -> None:
    files = [write_evaluation(tmp_path / str(seed), "maml", 1.0, seed=seed) for seed in (0, 1)]
    glance, detail = (table := table_sections(_part(tmp_path)))[0], table[1]
    means = [100 * _auc(file).mean() for file in files]
    assert glance.table is not None
    assert glance.table.header[:3] == ("Method", "Backbone", "k\xa0=\xa01: paper")
    (cells,) = [cells for cells in glance.table.rows if cells[0] == "MAML"]
    assert cells[2:7] == ("63.77", "not\xa0run", "77.98", "not\xa0run", "81.20")
    shown = np.mean(means)
    assert cells[7] == f"{shown:.1f} ({shown - 81.20:+.1f}; 6 episodes)".replace("-", "−")
    assert _cell(detail, "MAML", "each seed") == ", ".join(f"{mean:.1f}" for mean in means)
    assert "training seed 0 alone" in " ".join(detail.text.split())
    over = interval(means, "over seeds")
    assert _cell(detail, "MAML", "95 %") == f"{over.low:.1f} to {over.high:.1f} over 2 seeds".replace("-", "−")


def test_one_seed_has_its_interval_over_episodes(tmp_path: Path) -> None:
    found = interval(100 * _auc(write_evaluation(tmp_path, "maml", 1.0)), "over episodes")
    detail = table_sections(_part(tmp_path))[1]
    assert _cell(detail, "MAML", "95 %") == f"{found.low:.1f} to {found.high:.1f} over episodes"


def test_columns_without_anything_to_say_are_left_out(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "0", "maml", 1.0)
    write_evaluation(tmp_path / "1", "daml", 1.0)
    detail = table_sections(_part(tmp_path))[1]
    assert detail.table is not None
    assert detail.table.header == (
        "Method",
        "the paper's figure",
        "paper protocol: mean",
        "less the paper's",
        "95 %",
        "95 % over lesions",
    )
    assert "full protocol" not in detail.text
    write_evaluation(tmp_path / "2", "daml", 1.0, protocol="full", seed=1)
    detail = table_sections(_part(tmp_path))[1]
    assert detail.table is not None
    assert detail.table.header[6:] == ("full protocol: mean", "95 %", "95 % over lesions")
    assert _cell(detail, "MAML", "full protocol: mean") == "not run"
    assert "full protocol" in detail.text


def test_interval_over_lesions_is_that_of_the_first_seeds_summary(tmp_path: Path) -> None:
    files = [write_evaluation(tmp_path / str(seed), "maml", 1.0, seed=seed) for seed in (2, 1)]
    told = json.loads(files[1].with_suffix(".summary.json").read_text())["auc_over_lesions"]
    detail = table_sections(_part(tmp_path))[1]
    assert _cell(detail, "MAML", "95 % over lesions") == f"{100 * told['low']:.1f} to {100 * told['high']:.1f}"
    assert "training seed 1 alone" in " ".join(detail.text.split())


def test_scales_data_sets_and_ways_never_share_a_table(tmp_path: Path) -> None:
    small = write_evaluation(tmp_path / "1", "maml", 0.5)
    large = write_evaluation(tmp_path / "2", "maml", 2.0, scale="paper")
    write_evaluation(tmp_path / "3", "maml", 1.0, data="dermofit")
    parts = parts_of(gather(tmp_path))
    assert [part.name for part in parts] == [
        "isic2018, scale paper",
        "dermofit, scale laptop",
        "isic2018, scale laptop",
    ]
    for part, file in ((parts[0], large), (parts[2], small)):
        sections = table_sections(part)
        assert all(part.name in section.heading for section in sections)
        assert all(section.table is not None and part.name in section.table.caption for section in sections)
        assert _cell(_named(sections, "Table 1 at k = 5"), "MAML", "paper protocol: mean").startswith(
            f"{100 * _auc(file).mean():.1f}"
        )


def test_papers_figures_stand_only_beside_the_data_they_are_about(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "maml", 1.0, data="synthetic")
    for section in table_sections(_part(tmp_path)):
        assert section.table is not None
        assert "81.2" not in str(section.table)
        assert not any(
            "paper" in name and "protocol" not in name and "mean" not in name for name in section.table.header
        )


def test_the_paper_and_the_difference_stand_beside_the_interval(tmp_path: Path) -> None:
    file = write_evaluation(tmp_path, "maml", 1.0)
    detail = _named(table_sections(_part(tmp_path)), "Table 1 at k = 5")
    assert _cell(detail, "MAML", "the paper's figure") == "81.20"
    assert _cell(detail, "MAML", "less the paper's") == f"{100 * _auc(file).mean() - 81.2:+.1f}".replace("-", "−")


def test_the_papers_figures_do_not_stand_beside_a_smoke_run(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "maml", 1.0, scale="smoke")
    sections = table_sections(_part(tmp_path))
    assert not any("81.2" in str(section.table) for section in sections)
    assert "figures mean nothing" in sections[0].text


@pytest.mark.parametrize(("data", "group"), [("isic2018", "lesion"), ("pad-ufes-20", "patient"), ("mine", "group")])
def test_intervals_name_what_is_never_on_both_sides(tmp_path: Path, data: str, group: str) -> None:
    for row in ("maml", "daml"):
        write_evaluation(tmp_path / row, row, 1.0, data=data)
    write_evaluation(tmp_path / "image", "maml", 1.0, data=data, by_image=True)
    part = _part(tmp_path)
    sections = [*table_sections(part), *difference_sections(part), *twin_sections(part)]
    words = json.dumps([[section.heading, section.text, vars(section.table)] for section in sections if section.table])
    assert f"95 % over {group}s" in words
    assert f"Intervals over {group}s" in words
    for other in {"lesion", "patient"} - {group}:
        assert f"over {other}s" not in words


def test_dermofit_is_table_3(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "daml", 1.0, data="dermofit")
    assert "82.76" in str(_named(table_sections(_part(tmp_path)), "Table 3: ").table)


def test_data_that_no_table_is_about_has_its_own(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "maml", 1.0, data="mine")
    assert [section.heading for section in table_sections(_part(tmp_path))] == [
        "Other rows at k = 5 with intervals (mine, scale laptop)"
    ]


def test_plain_evaluations_of_two_variants_are_told_apart(tmp_path: Path) -> None:
    for decay in (0.1, 1.0):
        write_evaluation(tmp_path / str(decay), "maml", 1.0 + decay, plain=True, method={"decay": decay})
    assert [line.label.replace("\xa0", " ") for line in _part(tmp_path).lines] == [
        "MAML (decay = 0.1)",
        "MAML (decay = 1)",
    ]


def test_plain_evaluation_of_a_rows_run_joins_its_row(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "cells", "daml-eta7", 1.0)
    write_evaluation(tmp_path / "runs", "daml-eta7", 1.0, plain=True, by_image=True)
    (line,) = _part(tmp_path).lines
    assert (line.row, len(line.evaluations)) == ("daml-eta7", 2)


def test_plain_evaluation_of_what_a_cell_holds_is_not_counted_twice(tmp_path: Path) -> None:
    for by_image in (False, True):
        write_evaluation(tmp_path / "cell", "maml", 1.0, by_image=by_image)
        write_evaluation(tmp_path / "run", "maml", 1.0, by_image=by_image, plain=True)
    assert [each.row for each in _part(tmp_path).evaluations] == ["maml", "maml"]


def test_two_files_for_one_cell_are_refused(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "one", "maml", 1.0)
    other = write_evaluation(tmp_path / "two", "maml", 1.0, plain=True, summary=False)
    other.write_text(other.read_text().replace('"common": ["x", "y"]', '"common": ["y", "x"]'))
    with pytest.raises(
        ValueError, match=r"one/.* and .*two/.* both hold MAML, paper protocol, k = 5, seed 0; move one"
    ):
        parts_of(gather(tmp_path))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_stepping_down_rejects(p_values: list[float]) -> None:
    """The procedure as Holm wrote it, at many levels."""
    corrected = holm(p_values)
    for level in (0.01, 0.05, 0.2, 0.5):
        rejected: set[int] = set()
        for place, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
            if (len(p_values) - place) * p_values[i] > level:
                break
            rejected.add(i)
        assert {i for i, p in enumerate(corrected) if p <= level} == rejected


def test_difference_is_paired_over_the_episodes_that_both_have(tmp_path: Path) -> None:
    maml = write_evaluation(tmp_path / "1", "maml", 2.0)
    daml = write_evaluation(tmp_path / "2", "daml", 1.0, episodes=9)
    (section,) = difference_sections(_part(tmp_path))
    expected = paired(_auc(maml), _auc(daml)[:6], "over episodes")
    low, high = (f"{100 * each:.1f}".replace("-", "−") for each in (expected.interval.low, expected.interval.high))
    assert _cell(section, "MAML", "Difference") == f"{100 * expected.mean:+.1f}"
    assert _cell(section, "MAML", "95 % over episodes") == f"{low} to {high}"
    assert _cell(section, "MAML", "Episodes") == "6"
    assert section.table is not None
    assert not {"each seed", "95 % over seeds", "p over seeds", HOLM} & set(section.table.header)  # all empty
    assert "Only the first episodes" in section.text


def test_seeds_are_averaged_before_the_difference_and_only_those_of_both(tmp_path: Path) -> None:
    maml = [write_evaluation(tmp_path / f"m{seed}", "maml", 2.0, seed=seed) for seed in (0, 1)]
    daml = [write_evaluation(tmp_path / f"d{seed}", "daml", 1.0, seed=seed) for seed in (1, 0, 2)]
    (section,) = difference_sections(_part(tmp_path))
    means = [100 * (_auc(maml[0]) - _auc(daml[1])).mean(), 100 * (_auc(maml[1]) - _auc(daml[0])).mean()]
    assert _cell(section, "MAML", "each seed") == ", ".join(f"{mean:+.1f}" for mean in means)
    assert _cell(section, "MAML", "Difference") == f"{np.mean(means):+.1f}"


def test_a_seed_that_has_just_begun_takes_none_away(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_evaluation(tmp_path / f"daml{seed}", "daml", 1.0, seed=seed)
        write_evaluation(tmp_path / f"maml{seed}", "maml", 0.5, seed=seed, episodes=1 if seed else 6)
    (section,) = difference_sections(_part(tmp_path))
    assert _cell(section, "MAML", "Episodes") == "6"


def test_a_seed_that_is_still_judged_is_in_no_table(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        write_evaluation(tmp_path / f"maml{seed}", "maml", 1.5, seed=seed, episodes=90)
        going_on = seed == 2
        write_evaluation(
            tmp_path / f"daml{seed}", "daml", 1.0, seed=seed, episodes=3 if going_on else 90, summary=not going_on
        )
    write_evaluation(tmp_path / "anil", "anil", 9.0, episodes=1, summary=False)
    part = _part(tmp_path)
    (section, *_) = difference_sections(part)
    assert _cell(section, "MAML", "training seeds") == "0, 1"
    assert _cell(section, "MAML", "Episodes") == "90"
    assert [each.seed for line in part.of("daml") for each in line.at(5, "paper")] == [0, 1]
    told = dict(row for row in making_section(part, tmp_path).table.rows)  # type: ignore[union-attr]
    assert told["With fewer episodes than another seed's, and so in no table yet"] == "daml2/paper-2way-5shot.jsonl"
    assert "is that of MAML" in report(tmp_path).html


def test_a_seed_that_is_taken_further_leaves_the_finished_ones_in_the_table(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        write_evaluation(tmp_path / str(seed), "daml", 1.0, seed=seed, episodes=7 if seed == 0 else 6, summary=seed > 0)
    (line,) = _part(tmp_path).lines
    assert [each.seed for each in line.at(5, "paper")] == [0, 1, 2]
    assert not line.begun


def test_trainings_on_other_images_are_no_seeds_of_one_method(tmp_path: Path) -> None:
    for seed in (0, 1):
        file = write_evaluation(tmp_path / str(seed), "daml", 1.0, seed=seed, plain=True, summary=False)
        head, *rest = file.read_text().splitlines()
        told = json.loads(head)
        if seed:
            told["run"]["data"] |= {"fingerprint": "north", "clients": {"north": {}, "south": {}}}
        file.write_text("\n".join([json.dumps(told), *rest]) + "\n")
    part = _part(tmp_path)
    assert [[each.seed for each in line.evaluations] for line in part.lines] == [[0], [1]]


def test_what_was_drawn_by_image_alone_is_said_to_be(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "daml", 1.0, by_image=True)
    made = report(tmp_path)
    assert "evaluated by image only" in made.html
    assert "not run" not in made.markdown


def test_names_of_control_characters_spoil_no_picture() -> None:
    drawn = critical_difference({"bad\x01\ufffe name": 1.2, "DAML": 1.8}, 0.3, 600, "")
    ElementTree.fromstring(b64decode(drawn.image.split(",", 1)[1]))


def test_p_asks_the_training_seeds_however_many_the_episodes(tmp_path: Path) -> None:
    for seed, shift in enumerate((1.4, 0.6, 1.3)):  # every episode of a seed agrees, the seeds do not
        write_evaluation(tmp_path / f"m{seed}", "maml", shift, seed=seed)
        write_evaluation(tmp_path / f"d{seed}", "daml", 1.0, seed=seed)
        write_evaluation(tmp_path / f"a{seed}", "anil", 0.5 + 0.01 * seed, seed=seed)
    (section,) = difference_sections(_part(tmp_path))
    maml, anil = (float(_cell(section, row, "p over seeds")[-4:]) for row in ("MAML", "ANIL"))
    assert maml > 0.1
    assert anil < 0.05
    assert _cell(section, "ANIL", "p, Holm") != _cell(section, "ANIL", "p over seeds")
    assert "Holm's correction counts these tests of the table: 2." in " ".join(section.text.split())


def test_other_episodes_are_not_paired(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "1", "maml", 1.0, classes=("a", "c", "b"))
    write_evaluation(tmp_path / "2", "anil", 1.0)
    write_evaluation(tmp_path / "3", "daml", 1.0)
    (section,) = difference_sections(_part(tmp_path))
    assert section.table is not None
    assert [row[0] for row in section.table.rows] == ["ANIL"]
    left = "Left out, since no DAML here has the same k, training seed, episodes and settings: MAML at k = 5"
    assert left in " ".join(section.text.split())


def test_what_daml_has_nothing_beside_is_named_as_left_out(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "1", "daml", 1.0)
    write_evaluation(tmp_path / "2", "anil", 1.0)
    write_evaluation(tmp_path / "3", "anil", 1.0, shot=3)
    write_evaluation(tmp_path / "4", "maml", 1.0, seed=1)
    (section,) = difference_sections(_part(tmp_path))
    assert "and settings: MAML at k = 5; ANIL at k = 3." in " ".join(section.text.split())


def test_what_trains_nothing_stands_beside_every_seed(tmp_path: Path) -> None:
    own = write_evaluation(tmp_path / "1", "pretrained", 2.0)
    damls = [write_evaluation(tmp_path / f"d{seed}", "daml", 1.0, seed=seed) for seed in (0, 1, 2)]
    (section,) = difference_sections(_part(tmp_path))
    each = [100 * (_auc(own) - _auc(daml)).mean() for daml in damls]
    row = "ImageNet features + logistic regression"
    assert _cell(section, row, "training seeds") == "0, 1, 2"
    assert _cell(section, row, "each seed") == ", ".join(f"{one:+.1f}" for one in each)
    assert _cell(section, row, "Difference") == f"{np.mean(each):+.1f}"


def test_methods_that_trained_on_other_data_are_not_compared(tmp_path: Path) -> None:
    """Both readings of Table 3: the training classes are Dermofit's, or those of ISIC."""
    own = [
        write_evaluation(tmp_path / f"1{row}", row, shift, data="dermofit")
        for row, shift in (("maml", 2.0), ("daml", 1.0))
    ]
    other = [
        write_evaluation(tmp_path / f"2{row}", row, shift, data="dermofit", trained_on="isic2018")
        for row, shift in (("maml", 1.0), ("daml", 1.5))
    ]
    parts = parts_of(gather(tmp_path))
    assert [part.name for part in parts] == ["dermofit, scale laptop", "dermofit, trained on isic2018, scale laptop"]
    for part, (maml, daml) in zip(parts, (own, other), strict=True):
        (section,) = difference_sections(part)
        assert section.table is not None
        assert [row[0] for row in section.table.rows] == ["MAML"]
        apart = 100 * (_auc(maml) - _auc(daml)).mean()
        assert _cell(section, "MAML", "Difference") == f"{apart:+.1f}".replace("-", "−")


def test_fields_of_another_kind_of_method_do_not_keep_it_from_daml(tmp_path: Path) -> None:
    for steps in (10, 20):
        write_evaluation(tmp_path / f"daml{steps}", "daml", 1.0, method={"test_steps": steps}, episodes=steps)
    write_evaluation(tmp_path / "svm", "svm", 1.0)  # has test_steps of its own: of fine-tuning
    (section,) = difference_sections(_part(tmp_path))
    assert section.table is not None
    assert "features + SVM, DenseNet-121" in [row[0] for row in section.table.rows]


def test_a_variant_is_compared_with_the_daml_of_its_settings(tmp_path: Path) -> None:
    files = {
        (row, decay): write_evaluation(tmp_path / f"{row}{decay}", row, shift, method={"decay": decay})
        for row, decay, shift in (("maml", 1.0, 0.5), ("maml", 0.1, 2.0), ("daml", 1.0, 1.0), ("daml", 0.1, 1.5))
    }
    write_evaluation(tmp_path / "3", "maml", 1.0, method={"decay": 0.5})
    (section,) = difference_sections(_part(tmp_path))
    for decay in (1.0, 0.1):
        apart = 100 * (_auc(files["maml", decay]) - _auc(files["daml", decay])).mean()
        shown = f"{apart:+.1f}".replace("-", "−")
        assert _cell(section, f"MAML (decay = {decay:g})", "Difference") == shown
    assert "and settings: MAML (decay = 0.5)." in " ".join(section.text.replace("\xa0", " ").split())


def test_damaged_queries_are_refused(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "1", "maml", 1.0).with_suffix(".queries.jsonl").write_text("{\n")
    write_evaluation(tmp_path / "2", "daml", 1.0)
    with pytest.raises(ValueError, match=r"1/paper-2way-5shot\.queries\.jsonl is damaged"):
        difference_sections(_part(tmp_path))


def test_only_whole_evaluations_are_ranked(tmp_path: Path) -> None:
    for row, shift in (("maml", 2.0), ("daml", 1.0)):
        write_evaluation(tmp_path / row, row, shift, protocol="full", episodes=600, summary=False)
    write_evaluation(tmp_path / "anil", "anil", 1.5, protocol="full", episodes=30, summary=False)
    section = difference_sections(_part(tmp_path))[-1]
    assert section.heading == "Ranks over episodes, full protocol, k = 5 (isic2018, scale laptop)"
    assert re.search(r"over 600 episodes, 1 is best: MAML 1\.\d\d, DAML 1\.\d\d\.", section.figures[0].alt)
    assert "Not ranked: ANIL" in " ".join(section.text.split())


def test_ranks_that_cannot_be_drawn_say_why(tmp_path: Path) -> None:
    for row, seeds in (("daml", (0, 1)), ("maml", (0,)), ("anil", (1,))):
        for seed in seeds:
            write_evaluation(tmp_path / f"{row}{seed}", row, 1.0, seed=seed, episodes=600, summary=False)
    section = difference_sections(_part(tmp_path))[-1]
    assert section.text == "Not drawn: no training seed is common to MAML; DAML; ANIL."
    assert not section.figures


def test_ranks_of_what_is_not_trained_need_no_seed_in_common(tmp_path: Path) -> None:
    for rule in ("logistic", "centroid"):
        write_evaluation(tmp_path / rule, "pretrained", 1.0, method={"classifier": rule}, episodes=600, summary=False)
    write_evaluation(tmp_path / "daml", "daml", 1.0)
    section = difference_sections(_part(tmp_path))[-1]
    assert section.figures[0].caption.startswith("isic2018, scale laptop, paper protocol, k = 5. Bars")


def test_ranks_take_the_protocol_by_which_more_was_run(tmp_path: Path) -> None:
    for row, shift in (("maml", 2.0), ("daml", 1.0), ("anil", 1.5)):
        write_evaluation(tmp_path / row, row, shift, episodes=600, summary=False)
    for row in ("maml", "daml"):
        write_evaluation(tmp_path / f"{row}-full", row, 1.0, protocol="full", episodes=600, summary=False)
    section = difference_sections(_part(tmp_path))[-1]
    assert section.heading == "Ranks over episodes, paper protocol, k = 5 (isic2018, scale laptop)"
    assert "ANIL" in section.figures[0].alt


def test_ranks_leave_a_protocol_without_a_common_seed(tmp_path: Path) -> None:
    for row, seed in (("maml", 0), ("daml", 0), ("anil", 1)):
        write_evaluation(tmp_path / row, row, 1.0, seed=seed, episodes=600, summary=False)
    for row, shift in (("maml", 2.0), ("daml", 1.0)):
        write_evaluation(tmp_path / f"{row}-full", row, shift, protocol="full", episodes=600, summary=False)
    assert difference_sections(_part(tmp_path))[-1].heading.startswith("Ranks over episodes, full protocol")


def test_where_a_group_is_an_image_nothing_is_drawn_by_image(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "1", "maml", 1.0, data="dermamnist")
    write_evaluation(tmp_path / "2", "maml", 1.5, data="dermamnist", by_image=True)
    assert twin_sections(_part(tmp_path)) == []


def test_a_site_with_one_episode_has_no_interval(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "maml", 1.0, protocol="site", episodes=2, classes=("a", "b", "c"), summary=False)
    (section,) = twin_sections(_part(tmp_path))
    assert "nan" not in section.text


def test_twins_stand_beside_each_other(tmp_path: Path) -> None:
    ours = write_evaluation(tmp_path / "1", "maml", 1.0)
    theirs = write_evaluation(tmp_path / "2", "maml-transductive", 2.0, inductive=False)
    images = write_evaluation(tmp_path / "3", "maml", 1.5, by_image=True)
    transductive, lesions = twin_sections(_part(tmp_path))
    one, other, image = (100 * _auc(file).mean() for file in (ours, theirs, images))
    row = "MAML, k = 5, paper"
    assert (_cell(transductive, row, "inductive"), _cell(transductive, row, "transductive")) == (
        f"{one:.1f}",
        f"{other:.1f}",
    )
    assert _cell(transductive, row, "Difference") == f"{other - one:+.1f}"
    assert _cell(lesions, "MAML, k = 5", "by image") == f"{image:.1f}"


def test_any_transductive_run_stands_beside_its_twin(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "1", "protonet", 1.0)
    write_evaluation(tmp_path / "2", "protonet", 2.0, plain=True, inductive=False, method={"norm": "transductive"})
    (section,) = twin_sections(_part(tmp_path))
    assert section.table is not None
    assert [row[0].replace("\xa0", " ") for row in section.table.rows] == ["ProtoNet, k = 5, paper"]


def test_twins_find_each_other_beside_a_variant_of_one(tmp_path: Path) -> None:
    files = [
        write_evaluation(tmp_path / "1", "maml", 1.0),
        write_evaluation(tmp_path / "2", "maml-transductive", 2.0, inductive=False),
    ]
    write_evaluation(tmp_path / "3", "maml", 1.5, plain=True, method={"decay": 1.0})
    (section,) = twin_sections(_part(tmp_path))
    assert section.table is not None
    assert [row[0].replace("\xa0", " ") for row in section.table.rows] == ["MAML (decay = 0.1), k = 5, paper"]
    apart = 100 * (_auc(files[1]).mean() - _auc(files[0]).mean())
    assert section.table.rows[0][-2] == f"{apart:+.1f}"


def test_twins_of_unequal_length_differ_over_the_episodes_of_both(tmp_path: Path) -> None:
    ours = write_evaluation(tmp_path / "1", "maml", 1.0, episodes=12)
    theirs = write_evaluation(tmp_path / "2", "maml-transductive", 2.0, inductive=False, episodes=6)
    (section,) = twin_sections(_part(tmp_path))
    apart = 100 * (_auc(theirs) - _auc(ours)[:6]).mean()
    assert _cell(section, "MAML, k = 5, paper", "Difference") == f"{apart:+.1f}"


def test_one_site_stands_beside_all(tmp_path: Path) -> None:
    file = write_evaluation(tmp_path, "maml", 1.0, protocol="site", episodes=12, classes=("a", "b", "c"), summary=False)
    lines = [json.loads(line) for line in file.read_text().splitlines()[1:]]
    mean = np.mean(
        [line["metrics"]["auc"] for line in lines if (line["site"], line["classes"]) == ("north", ["a", "b"])]
    )
    (section,) = twin_sections(_part(tmp_path))
    assert section.table is not None
    whole = np.mean([line["metrics"]["auc"] for line in lines if (line["site"], line["classes"]) == ("", ["a", "b"])])
    (row,) = section.table.rows
    assert section.table.header[2:4] == ("a and b: all sites", "north")
    assert row[:3] == ("MAML", "5", f"{100 * whole:.1f}")
    assert row[3] == f"{100 * mean:.1f} ({100 * (mean - whole):+.1f})".replace("-", "−")
    assert [figure.alt.partition(":")[0] for figure in section.figures] == ["a and b", "a and c", "b and c"]
    assert "MAML, site north" in section.figures[0].alt


def test_a_pair_that_only_a_smaller_k_has_lesions_for_has_no_chart(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "1", "maml", 1.0, protocol="site", shot=1, episodes=12)
    write_evaluation(tmp_path / "3", "maml", 1.0, protocol="site", shot=3, episodes=12, classes=("a", "b"))
    (section,) = twin_sections(_part(tmp_path))
    assert [figure.alt.partition(":")[0] for figure in section.figures] == ["a and b"]


def test_within_a_site_the_difference_has_its_interval_over_lesions_and_episodes(tmp_path: Path) -> None:
    file = write_evaluation(tmp_path, "maml", 1.0, protocol="site", episodes=12, classes=("a", "b", "c"))
    told = json.loads(file.with_suffix(".summary.json").read_text())
    pair = next(pair for pair in told["pairs"] if (pair["site"], pair["classes"]) == ("north", ["a", "b"]))
    assert pair["lesions"] == {"a": 6, "b": 6}
    apart = pair["less_all_sites_over_lesions"]
    (section,) = twin_sections(_part(tmp_path))
    assert section.table is not None
    assert section.table.header[3] == "north (6 a, 6 b)"
    sides = [
        next(each["auc"] for each in told["pairs"] if (each["site"], each["classes"]) == (site, ["a", "b"]))
        for site in ("north", "")
    ]
    by_episodes = [(side["high"] - side["low"]) / 2 for side in sides]
    below, above = (math.hypot(apart["mean"] - apart[name], *by_episodes) for name in ("low", "high"))
    assert below > apart["mean"] - apart["low"]
    low, high = f"{100 * (apart['mean'] - below):.1f}", f"{100 * (apart['mean'] + above):.1f}"
    cell = f"({100 * apart['mean']:+.1f}; {low} to {high})".replace("-", "−")
    assert section.table.rows[0][3].replace("\N{NO-BREAK SPACE}", " ").endswith(cell)
    assert "Intervals are 95 % over lesions." in section.figures[0].caption


def test_daml_begins_where_the_warm_up_of_maml_ends(tmp_path: Path) -> None:
    for row, first, last in (("maml", 1, 20), ("daml", 11, 20)):
        write_evaluation(tmp_path / "cells" / row, row, 1.0)
        write_log(tmp_path / "runs" / row, row, first=first, last=last)
    (section,) = training_sections(_part(tmp_path))
    curves, difficulty = section.figures
    assert "MAML from 0.550 to 0.700; DAML from 0.550 to 0.700" in curves.alt
    assert "The first 10 iterations are those of the run of MAML." in difficulty.caption


def test_daml_does_not_begin_with_the_warm_up_of_other_data(tmp_path: Path) -> None:
    for data in ("isic2018", "dermofit"):
        write_evaluation(tmp_path / data / "cells" / "maml", "maml", 1.0, data="dermofit", trained_on=data)
        write_log(tmp_path / data / "runs" / "maml", "maml", last=10, data=data)
    write_evaluation(tmp_path / "isic2018" / "cells" / "daml", "daml", 1.0, data="dermofit", trained_on="isic2018")
    write_log(tmp_path / "isic2018" / "runs" / "daml", "daml", first=11, data="isic2018")
    own, other = (training_sections(part) for part in parts_of(gather(tmp_path)))
    assert not any("first 10 iterations" in figure.caption for section in own for figure in section.figures)
    assert any("first 10 iterations" in figure.caption for section in other for figure in section.figures)


def test_runs_of_another_seed_are_not_drawn_with_these(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "cells", "maml", 1.0)
    write_log(tmp_path / "runs", "maml", seed=4)
    assert training_sections(_part(tmp_path)) == []


def test_fine_tuning_is_drawn_only_if_it_was_measured(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "maml", 1.0)
    assert fine_tuning_sections(gather(tmp_path).fine_tuning) == []
    line = {"row": "finetune", "data": "made", "shot": 1, "step": 0, "loss": 0.7, "auc": 0.5, "runs": 30}
    for scale in ("smoke", "laptop"):
        (tmp_path / scale).mkdir()
        (tmp_path / scale / "fig3.jsonl").write_text(json.dumps({**line, "scale": scale}) + "\n")
    (section,) = fine_tuning_sections(gather(tmp_path).fine_tuning)
    assert section.heading.startswith("Fig. 3")
    told = [figure.caption for figure in section.figures]
    assert told == [
        f"made, scale {scale}. Row finetune of fig3.jsonl, mean of 30 runs." for scale in ("laptop", "smoke")
    ]
    assert "k = 1: loss 0.70 to 0.70" in section.figures[0].alt


def test_making_says_what_is_missing_and_what_was_stopped(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "cells", "maml", 1.0, summary=False)
    write_log(tmp_path / "runs", "maml")
    section = making_section(_part(tmp_path), tmp_path)
    assert section.table is not None
    told = dict(section.table.rows)
    assert told["Trained with"] == "rareshot 0; commit abc"
    assert told["Without a summary of all their lines: running, or stopped"] == "cells/paper-2way-5shot.jsonl"
    assert told["Missing from table2, paper protocol"].startswith("7 of 8 cells: maml-resblocks-noaug (k = 5)")
    assert "maml (k = 1, 3);" in told["Missing from table1, paper protocol"]
    assert not any(what.startswith("Missing from twins") for what in told)
    write_evaluation(tmp_path / "twin", "maml-transductive", 1.0)
    section = making_section(_part(tmp_path), tmp_path)
    assert section.table is not None
    assert "maml-transductive (k = 1, 3);" in dict(section.table.rows)["Missing from twins, paper protocol"]
    assert "not a medical device" in section.text


def test_making_names_what_trained_the_network_of_a_row_of_features(tmp_path: Path) -> None:
    """Rows of one plain training differ in what adapts, which run.json does not know."""
    write_evaluation(tmp_path / "cells", "logistic-conv4", 1.0)
    name, command, method = ROWS["logistic-conv4"].fitted(5)
    run = replace(made_run(at_scale(method, "laptop"), command), versions={"rareshot": "0", "commit": "trained"})
    write_run(tmp_path / "runs" / name, run)
    (tmp_path / "runs" / name / "log.jsonl").write_text('{"iteration": 1, "loss": 0.5}\n')
    section = making_section(_part(tmp_path), tmp_path)
    assert section.table is not None
    assert "commit trained" in dict(section.table.rows)["Trained with"]


def test_making_names_each_version_once_and_what_ran_on_no_gpu(tmp_path: Path) -> None:
    for seed, more in enumerate(({}, {"commit": "def", "gpu": "a card"})):
        file = write_evaluation(tmp_path / str(seed), "maml", 1.0, seed=seed)
        header, *lines = file.read_text().splitlines()
        values = json.loads(header)
        values["versions"] |= more
        file.write_text("\n".join([json.dumps(values), *lines]) + "\n")
    section = making_section(_part(tmp_path), tmp_path)
    assert section.table is not None
    told = dict(section.table.rows)["Evaluated with"]
    assert told == "rareshot 0; commit abc, def; gpu none, a card"


def test_hostile_names_are_text_on_the_page_and_in_the_tables(tmp_path: Path) -> None:
    write_evaluation(tmp_path, HOSTILE, 1.0, data="a & b_%|", classes=("<script>", "$x", "c"))
    drawn = report(tmp_path)
    assert Checked(drawn.html).all("script") == []
    assert any(HOSTILE in text for text in Checked(drawn.html).texts)
    assert "<script" not in drawn.markdown
    assert r"a \& b\_\%\textbar{}" in drawn.latex


NASTY = st.text(st.sampled_from("ab \\{}[]&%$#_~^<>|`*\"'η−–\n\u00a0"), max_size=12)
TABLE = st.builds(
    lambda c, h, r: Table(c, h, (r, h)), NASTY, st.tuples(NASTY, NASTY, NASTY), st.tuples(NASTY, NASTY, NASTY)
)


@given(TABLE)
def test_latex_is_balanced_whatever_a_cell_holds(table: Table) -> None:
    text = latex("t", [table])
    body = text[text.index(r"\begin{table}") :].replace(r"\\", "")
    bare = re.sub(r"\\[&%$#_{}]", "", body)
    depth = 0
    for char in bare:
        depth += {"{": 1, "}": -1}.get(char, 0)
        assert depth >= 0
    assert depth == 0
    rows = [
        line
        for line in re.sub(r"\\[&%$#_{}]", "", text.replace(r"\textbackslash{}", "")).splitlines()
        if line.endswith(r"\\")
    ]
    assert [row.count("&") for row in rows] == [2, 2, 2]
    assert bare.count("$") % 2 == 0


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles_whatever_a_cell_holds(tmp_path: Path) -> None:
    """The tables of a report, and one of every character that has a meaning to LaTeX, alone and after a line break."""
    write_evaluation(tmp_path / "results", HOSTILE, 1.0, data="a & b_%|", classes=("<script>", "$x", "c"))
    (tmp_path / "report.tex").write_text(report(tmp_path / "results").latex)
    every = "ab \\{}[]&%$#_~^<>|`*\"'ηγε−–…\n\u00a0"
    table = Table(every, (every, "[2em]"), (("[2em]", every), *((char, f"*{char}") for char in every)))
    (tmp_path / "every.tex").write_text(latex(every, [table]))
    (tmp_path / "paper.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}\input{report}\input{every}\end{document}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


@given(TABLE)
def test_markdown_rows_have_as_many_cells_as_headings(table: Table) -> None:
    lines = [line for line in markdown("t", [table]).splitlines() if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines] == [4, 4, 4, 4]


def test_report_writes_page_and_tables_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_evaluation(tmp_path / "results", "maml", 1.0)
    assert main(["report", str(tmp_path / "results"), "--out", str(tmp_path / "new" / "page.html")]) == 0
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["page.html", "page.md", "page.tex"]
    assert not re.search(r'(?:src|href)="(?!data:)', (tmp_path / "new" / "page.html").read_text())
    assert "page.md" in capsys.readouterr().out.replace("\n", "")


def test_refused_report_writes_nothing_and_says_why_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_evaluation(tmp_path / "results", "maml", 1.0)
    file.write_text(file.read_text() + "{\n")
    assert main(["report", str(tmp_path / "results"), "--out", str(tmp_path / "page.html")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"rareshot: {file}, line 8, is damaged")
    assert said.count("\n") == 1
    assert [each.name for each in tmp_path.iterdir()] == ["results"]


def test_page_must_be_a_html_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_evaluation(tmp_path, "maml", 1.0)
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "page.tex")]) == 2
    assert "must be a file whose name ends in .html" in capsys.readouterr().err


def test_the_interval_over_lesions_is_of_the_method_less_daml(tmp_path: Path) -> None:
    files = [write_evaluation(tmp_path / row, row, shift) for row, shift in (("maml", 2.0), ("daml", 0.2))]
    expected = bootstrap_pairs_over_groups(*(query_scores(read_queries(file)) for file in files))
    (section,) = difference_sections(_part(tmp_path))
    shown = f"{100 * expected.low:.1f} to {100 * expected.high:.1f}".replace("-", "−")
    assert _cell(section, "MAML", "95 % over lesions") == shown


def test_ranks_are_of_the_seeds_that_all_have(tmp_path: Path) -> None:
    maml, _ = (
        write_evaluation(tmp_path / f"m{seed}", "maml", shift, seed=seed, episodes=600, summary=False)
        for seed, shift in ((0, 0.5), (1, 4.0))
    )
    daml = write_evaluation(tmp_path / "d", "daml", 1.0, seed=0, episodes=600, summary=False)
    ranks, _ = average_ranks(np.stack([_auc(daml), _auc(maml)], 1))
    section = difference_sections(_part(tmp_path))[-1]
    assert f"1 is best: DAML {ranks[0]:.2f}, MAML {ranks[1]:.2f}." in section.figures[0].alt
