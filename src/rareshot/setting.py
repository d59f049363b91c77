"""Where a table is filled, from what data and at what scale: folders, runs, headers and episodes of its cells."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rareshot.data.cards import CARDS
from rareshot.data.collection import LabelledImages
from rareshot.evaluation import Plan, Protocol, plan
from rareshot.experiments import WAY, Cell, Row, Table
from rareshot.results import header_of, name_of
from rareshot.run_record import Run, versions
from rareshot.scales import SCALES, at_scale

SITE_SHARE = 3
"""Where fewer episodes are asked for, so many times fewer of each pair at each site."""


@dataclass(frozen=True)
class Setting:
    """Where a table is filled, from what data and at what scale."""

    out: Path
    scale: str
    """A name in `SCALES`."""
    common: LabelledImages
    rare: LabelledImages
    """Of the same images, or of another data set."""
    by_image: bool = False
    """Draw images instead of lesions in the `paper` protocol: photographs of one may stand on both sides."""

    @classmethod
    def of(
        cls,
        table: Table,
        out: Path,
        scale: str,
        images: LabelledImages,
        train: LabelledImages | None = None,
        *,
        by_image: bool = False,
    ) -> "Setting":
        """The classes that a table is about.

        Args:
            images: the data set that the table is about, or one of its stand-ins.
            train: another data set, whose common diseases are trained on instead.

        Raises:
            ValueError: if the data set has not the table's classes, or an unseen class would be trained on.
        """
        card = images.card
        if card.name not in table.stand_ins:
            card = CARDS.get(table.data, card)
            missing = [name for name in (*card.common, *card.rare) if name not in images.classes]
            if missing:
                raise ValueError(
                    f"{table.key} is about {table.data}, and {images.card.name} has no class {', '.join(missing)} "
                    f"(it has {', '.join(images.classes)}); give {table.data}, or {' or '.join(table.stand_ins)} instead"
                )
        rare = images.of(card.rare)
        common = replace(images, card=card).common() if train is None else train.common()
        seen = sorted(set(common.classes) & set(rare.classes))
        if seen or not common.classes:
            told = (
                f"would train on {', '.join(seen)}, which cannot be judged as unseen" if seen else "has no common class"
            )
            raise ValueError(f"--train-data: {common.card.name} {told}; choose another data set")
        return cls(out, scale, common, rare, by_image)

    @property
    def data(self) -> str:
        """Name of the data, in paths."""
        trained, judged = self.common.card.name, self.rare.card.name
        return judged if trained == judged else f"{judged}-from-{trained}"

    @property
    def folder(self) -> Path:
        """Of all that is filled here."""
        return self.out / self.scale / self.data

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The data in run.json."""
        common = self.common
        return {"name": common.card.name, "common": list(common.classes), "fingerprint": common.fingerprint()}

    @cached_property
    def versions(self) -> dict[str, str]:
        """Of what computes here."""
        return versions()

    def run_folder(self, name: str) -> Path:
        """Of a run."""
        return self.folder / "runs" / name

    def cell_folder(self, cell: Cell) -> Path:
        """Of a cell's evaluations."""
        return self.folder / "cells" / cell.name

    def run_of(self, cell: Cell) -> tuple[str, Run]:
        """Name of the folder and the run that fills a cell."""
        name, command, method = cell.row.fitted(cell.shot)
        method, size = at_scale(method, self.scale), SCALES[self.scale].size
        run = Run(method, command, cell.seed, size, self.scale, self.facts, self.versions)
        return f"{name}-seed{cell.seed}", run

    def header(self, cell: Cell, protocol: Protocol, inductive: bool | None = None) -> dict[str, Any]:
        """The first line of an evaluation: that of `rareshot evaluate`, and the row; not knowing, all but `inductive`."""
        _, run = self.run_of(cell)
        header = header_of(
            replace(run, name=cell.row.command, method=at_scale(cell.row.at(cell.shot), self.scale)),
            self.rare,
            inductive=inductive,
            protocol=protocol,
            way=WAY,
            shot=cell.shot,
            seed=0,
            untrained=cell.row.untrained,
            by_image=self.by_image,
            episodes=self.count(cell.row, protocol) if protocol == "site" else None,
        )
        # Versions stand in run.json and beside the header: lines of two commits may follow each other.
        header["run"].pop("versions")
        if inductive is None:
            header.pop("inductive")
        return {**header, "row": cell.row.key}

    def count(self, row: Row, protocol: Protocol) -> int | None:
        """Episodes of a cell, in `site` of each pair at each site; None: all of the protocol."""
        asked = [each for each in (row.episodes, SCALES[self.scale].episodes) if each is not None]
        if not asked:
            return None
        return max(1, min(asked) // SITE_SHARE) if protocol == "site" else min(asked)

    def plans(self, cell: Cell, protocol: Protocol) -> list[Plan]:
        """The episodes of a cell; every cell of one k meets the same ones, from the first."""
        count = self.count(cell.row, protocol)
        return plan(self.rare, protocol, way=WAY, shot=cell.shot, count=count, by_image=self.by_image)

    def evaluation_name(self, protocol: Protocol, shot: int) -> str:
        """What the files of a cell's evaluation are called."""
        return name_of(protocol, WAY, shot, by_image=self.by_image)


def possible(
    setting: Setting, protocols: Sequence[Protocol], shots: Sequence[int], *, strict: bool = True
) -> list[Protocol]:
    """The protocols that the data allow at every k.

    Args:
        strict: refuse `site`, too, where no pair of classes has enough lesions at one site; else leave it out.

    Raises:
        ValueError: if the rare classes are too small for a protocol.
    """
    allowed = list(protocols)
    for protocol in protocols:
        try:
            for shot in shots:
                plan(setting.rare, protocol, way=WAY, shot=shot, count=1, by_image=setting.by_image)
        except ValueError:
            if strict or protocol != "site":
                raise
            allowed.remove(protocol)
    return allowed


def refuse_other_run(folder: Path, run: Run) -> None:
    """Refuse a folder that holds another run; who made it and with which versions does not matter.

    Raises:
        ValueError: naming what differs.
    """
    file = folder / "run.json"
    if not file.is_file():
        return
    here = _flat(json.loads(json.dumps(run.to_json())))
    try:
        there = _flat(json.loads(file.read_bytes()))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is damaged ({error!r}); move the run away") from error
    differing = [
        f"{name}={there.get(name)!r} there and {here.get(name)!r} here"
        for name in sorted(here.keys() | there.keys())
        if name not in ("versions", "name") and there.get(name) != here.get(name)
    ]
    if differing:
        raise ValueError(f"{folder} holds another run: {', '.join(differing)}; move it away, or choose another --out")


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the method beside those of the run."""
    method = {f"method.{name}": value for name, value in dict(values["method"]).items()}
    return {**{name: value for name, value in values.items() if name != "method"}, **method}
