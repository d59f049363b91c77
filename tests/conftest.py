"""Fixtures: made images, and the labels of the real ones."""

import csv
import locale
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from lying_server import BODY, NAME, Web, serve
from lying_server import made as made_source

from rareshot import machine
from rareshot.data import fetch as fetch_module
from rareshot.data.cards import ISIC2018
from rareshot.data.collection import LabelledImages, number_groups
from rareshot.data.synthetic import separable

machine.round_alike()  # as the command line does: before torch computes anything
torch.set_num_threads(1)  # tiny networks: more threads only wait for each other


@pytest.fixture(scope="session")
def made() -> LabelledImages:
    """A small separable set: 7 classes, 12 lesions of two images each, 16 pixels."""
    return separable(16, lesions=12, seed=0)


@pytest.fixture(scope="session")
def isic_folder() -> Path:
    """The real ISIC 2018 images."""
    data = os.environ.get("RARESHOT_DATA")
    folder = (Path(data) if data else Path(__file__).resolve().parents[2] / "shared" / "data") / "isic2018"
    if not (folder / "labels.csv").is_file():
        pytest.skip(f"the ISIC 2018 images are not here: {folder} is missing (set RARESHOT_DATA to the folder above)")
    return folder


@pytest.fixture(scope="session")
def isic_labels(isic_folder: Path) -> LabelledImages:
    """Labels and lesions of the real ISIC 2018 set; every picture is the same black pixel, so that none is decoded."""
    with (isic_folder / "labels.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    classes = tuple(ISIC2018.classes)
    return LabelledImages(
        pixels=np.broadcast_to(np.zeros((1, 1, 1, 3), np.uint8), (len(rows), 1, 1, 3)),
        labels=np.array([classes.index(row["dx"]) for row in rows]),
        classes=classes,
        groups=number_groups([row["lesion_id"] for row in rows]),
        ids=np.array([row["image_id"] for row in rows]),
        card=ISIC2018,
        columns={"site": np.array([row["site"] for row in rows])},
    )


@pytest.fixture
def gpu() -> Iterator[torch.device]:
    """The device in use is a GPU."""
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU here: torch.cuda.is_available() is False")
    yield machine.use_device("cuda")
    machine.use_device("cpu")


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A server on loopback that cuts, lies and stalls as it is told."""
    monkeypatch.setattr(fetch_module, "BACKOFF_S", 0.0)
    with serve() as web:
        yield web


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch, web: Web) -> Web:
    """It serves one file of a made source."""
    made_source(monkeypatch)
    web.files[NAME] = BODY
    return web


@pytest.fixture
def zipped(monkeypatch: pytest.MonkeyPatch, web: Web) -> Web:
    """It serves an archive of a made source, with narrow bounds."""
    made_source(monkeypatch, name="made.zip", folder="made", max_members=5, max_unpacked_bytes=100_000)
    return web


@pytest.fixture
def ascii_locale() -> Iterator[None]:
    """A text file that is opened without an encoding takes ASCII alone, but in Python's own UTF-8 mode."""
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    yield
    locale.setlocale(locale.LC_CTYPE, before)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Before its fixtures: a command that was run in this process may have left as many threads as there are cores."""
    torch.set_num_threads(1)
