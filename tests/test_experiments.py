"""The paper's tables as data: its figures, what cells share, and the order of work."""

from dataclasses import replace

import pytest

from rareshot import config
from rareshot.experiments import FIRST, TABLES, Row, Table, cells_of
from rareshot.methods import METHODS
from rareshot.methods.maml import MAML
from rareshot.methods.supervised import Supervised
from rareshot.scales import SCALES, at_scale

# Typed from the paper once more: AUC in % at k = 1, 3, 5.
TABLE1 = {
    "knn": "50.00 56.07 62.69",
    "svm": "61.46 61.68 67.44",
    "finetune-densenet": "58.57 68.05 73.65",
    "finetune-conv4": "58.49 68.13 75.90",
    "relation": "59.97 62.87 72.40",
    "maml": "63.77 77.98 81.20",
    "task-sampling": "64.21 78.40 82.05",
    "daml": "67.33 79.60 83.30",
}
TABLE2 = {
    "maml-resblocks-noaug": "75.8",
    "maml-noaug": "79.3",
    "maml": "81.2",
    "daml-eta1": "81.7",
    "daml-eta3": "82.4",
    "daml": "83.3",
    "daml-eta7": "83.1",
}
TABLE3 = {
    "maml": "63.00 74.03 80.70",
    "task-sampling": "63.20 76.10 81.80",
    "daml": "63.33 77.15 82.76",
}
EVERY_ROW = [row for table in TABLES.values() for row in table.rows]


@pytest.mark.parametrize(("key", "printed"), [("table1", TABLE1), ("table2", TABLE2), ("table3", TABLE3)])
def test_a_table_holds_the_papers_rows_in_its_order_with_its_figures(key: str, printed: dict[str, str]) -> None:
    table = TABLES[key]
    rows = table.rows[: len(printed)]
    assert [row.key for row in rows] == list(printed)
    for row in rows:
        assert [row.paper[shot] for shot in table.shots] == list(map(float, printed[row.key].split()))
    assert not any(row.paper for row in table.rows[len(printed) :])


def test_what_a_user_would_take_instead_is_in_every_table_of_the_paper() -> None:
    for key in ("table1", "table2", "table3"):
        assert "pretrained" in [row.key for row in TABLES[key].rows]


def test_one_key_is_one_method_in_every_table() -> None:
    methods: dict[str, Row] = {}
    for row in EVERY_ROW:
        known = methods.setdefault(row.key, row)
        assert (row.method, row.command, row.episodes) == (known.method, known.command, known.episodes)


def test_commands_are_those_of_rareshot_fit() -> None:
    for row in EVERY_ROW:
        assert type(METHODS[row.command]) is type(row.method)
        classifier = getattr(METHODS[row.command], "classifier", None)
        assert classifier == getattr(row.method, "classifier", None)


def test_rows_differ_in_what_their_labels_say() -> None:
    methods = {row.key: row.method for row in EVERY_ROW}
    maml = methods["maml"]
    assert isinstance(maml, MAML)
    assert methods["task-sampling"] == replace(maml, sampling="curriculum")
    assert methods["maml-noaug"] == replace(maml, augment=False)
    assert methods["maml-resblocks-noaug"] == replace(maml, augment=False, backbone="resblocks")
    for eta, key in ((1, "daml-eta1"), (3, "daml-eta3"), (5, "daml"), (7, "daml-eta7")):
        daml = methods[key]
        assert isinstance(daml, MAML)
        assert daml.meta_loss.eta == eta  # type: ignore[union-attr]
        assert replace(daml, meta_loss=maml.meta_loss) == maml
    assert {row.label for row in EVERY_ROW if row.untrained} == {"random start, adapted"}


def test_classifiers_and_k_share_one_supervised_run_of_a_backbone() -> None:
    rows = {row.key: row for row in TABLES["table1"].rows}
    dense = {
        config_of(rows[key], shot)
        for key in ("knn", "svm", "logistic", "centroid", "finetune-densenet")
        for shot in (1, 3, 5)
    }
    assert len(dense) == 1
    assert config_of(rows["finetune-conv4"], 5) not in dense


def config_of(row: Row, shot: int) -> tuple[str, str]:
    name, command, method = row.fitted(shot)
    assert command in METHODS
    return name, str(config.to_json(method))


def test_a_shared_run_ignores_what_acts_in_adapt_alone() -> None:
    slow = Row("slow", "", "", Supervised(classifier="svm", test_steps=99, finetune_lr=0.5, width=8), "svm")
    assert slow.fitted(1) == ("supervised-conv4", "finetune", Supervised(width=8))
    assert slow.at(1) == slow.method


def test_an_episodic_run_belongs_to_its_k() -> None:
    row = next(row for row in EVERY_ROW if row.key == "daml")
    assert [row.fitted(shot)[0] for shot in (1, 5)] == ["daml-1shot", "daml-5shot"]
    assert row.fitted(1)[2] == replace(row.method, shot=1)  # type: ignore[type-var]


def test_cells_come_in_the_order_of_their_interest() -> None:
    cells = cells_of(TABLES["table1"], seeds=3)
    assert [cell.name for cell in cells[:4]] == [
        "maml-5shot-seed0",
        "task-sampling-5shot-seed0",
        "daml-5shot-seed0",
        "maml-5shot-seed1",
    ]
    assert {(cell.row.key, cell.shot) for cell in cells[:9]} == {(key, 5) for key in FIRST}
    others = len(TABLES["table1"].rows) - len(FIRST)
    assert {(cell.shot, cell.seed) for cell in cells[9 : 9 + others]} == {(5, 0)}
    seeds = [cell.seed for cell in cells[9:]]
    assert seeds == sorted(seeds)
    shots = [cell.shot for cell in cells[9:] if not cell.seed]
    assert shots == sorted(shots, reverse=True)
    assert len({cell.name for cell in cells}) == len(cells)


def test_every_warmup_is_run_before_it_is_branched_from() -> None:
    for table in TABLES.values():
        places = {cell.name: place for place, cell in enumerate(cells_of(table, seeds=2))}
        for shot in table.shots:
            for seed in (0, 1):
                assert places[f"maml-{shot}shot-seed{seed}"] < places[f"daml-{shot}shot-seed{seed}"]


def test_what_no_seed_changes_has_one_seed() -> None:
    seeds = {(cell.row.key, cell.seed) for cell in cells_of(TABLES["table1"], seeds=3, shots=[5])}
    assert {seed for key, seed in seeds if key == "pretrained"} == {0}
    assert {seed for key, seed in seeds if key == "untrained"} == {0, 1, 2}


@pytest.mark.parametrize("scale", SCALES)
def test_every_method_takes_every_scale(scale: str) -> None:
    for row in EVERY_ROW:
        settings = config.to_json(at_scale(row.method, scale))
        for name in ("iterations", "warmup"):
            assert settings.get(name, SCALES[scale].settings[name]) == SCALES[scale].settings[name]


def test_every_method_can_be_built_at_the_smallest_scale() -> None:
    small = {row.key: at_scale(row.method, "smoke") for row in EVERY_ROW if not row.trains_nothing}
    for key in ("finetune-densenet", "finetune-conv4", "relation", "protonet", "anil", "maml-resblocks-noaug", "daml"):
        assert small[key].blank(SCALES["smoke"].size).size == SCALES["smoke"].size


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"rows": ["gpt"]}, "table2 has no row 'gpt'; choose from maml-resblocks-noaug, maml-noaug, maml"),
        ({"shots": [2]}, "table2 has no k = 2; choose from 5"),
        ({"seeds": 0}, "seeds=0 must be at least 1"),
    ],
)
def test_cells_that_a_table_has_not_are_refused(asked: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cells_of(TABLES["table2"], **asked)  # type: ignore[arg-type]


def test_a_table_refuses_a_key_that_stands_twice() -> None:
    row = TABLES["table2"].rows[0]
    with pytest.raises(ValueError, match="each key must stand once"):
        Table("twice", "", (row, row), shots=(5,))


def test_a_table_refuses_a_figure_for_a_k_that_it_has_not() -> None:
    with pytest.raises(ValueError, match=r"maml-resblocks-noaug has figures for k = \[5\], not \(1, 3\)"):
        Table("other", "", TABLES["table2"].rows[:1], shots=(1, 3))


def test_a_twin_differs_in_its_norm_alone() -> None:
    rows = TABLES["twins"].rows
    assert [row.key for row in rows[::2]] == ["relation", "maml", "task-sampling", "daml", "protonet", "anil"]
    for row, twin in zip(rows[::2], rows[1::2], strict=True):
        assert twin.key == f"{row.key}-transductive"
        assert replace(twin.method, norm="support") == row.method  # type: ignore[call-arg]


def test_the_rows_of_the_claim_come_first_at_every_k_and_seed() -> None:
    cells = cells_of(TABLES["table1"], seeds=3)
    turns = [(cell.seed, -cell.shot, cell.row.key not in FIRST) for cell in cells[9:]]
    assert turns == sorted(turns)
