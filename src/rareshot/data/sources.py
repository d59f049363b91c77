"""Where the public data sets lie at their publishers: addresses, bounds, published checksums. Facts only; `fetch` acts.

Where each fact was found:

- ISIC 2018 Task 3: the publisher's page <https://challenge.isic-archive.com/data/#2018>, whose source is
  `stade/core/templates/data/2018.html` in github.com/ImageMarkup/stade (commit bc36a40). It gives the three addresses
  below and the sizes 2.6 GB, 36 KB and 481 KB, but no checksum: `fetch` records one at the first download.
  The pages of later years point to <https://isic-archive.s3.amazonaws.com/challenges/>, and PyHealth's reader takes
  these same files from `challenges/2018/` there: the place to look if the address below closes one day.
- DermaMNIST: Zenodo record 10519652; addresses and MD5 as published by its authors in `medmnist/info.py` 3.0.2
  of github.com/MedMNIST/MedMNIST (commit 3bb56be), licence CC BY-NC 4.0.
"""

from dataclasses import dataclass

from rareshot.data.cards import DERMAMNIST, ISIC2018, DataCard


@dataclass(frozen=True)
class RemoteFile:
    """One file at its publisher, and the bounds beyond which it cannot be that file."""

    name: str
    """What the file is called in the target folder."""
    address: str
    max_bytes: int
    """A longer answer is refused: the published size or the size of the raw pixels, rounded up."""
    md5: str = ""
    """As published; empty: the publisher gives none, so later downloads are compared with the first."""
    folder: str = ""
    """The folder that this zip becomes; empty: the file stays as it is."""
    max_members: int = 0
    max_unpacked_bytes: int = 0


@dataclass(frozen=True)
class Source:
    """A data set that can be fetched: its card, the publisher's page for people, its files."""

    card: DataCard
    page: str
    files: tuple[RemoteFile, ...]
    opens: str = ""
    """The file that rareshot's reader opens, below the target folder; empty: the folder itself."""


_ISIC = "https://isic-challenge-data.s3.amazonaws.com/2018"
_ZENODO = "https://zenodo.org/records/10519652"
_IMAGES = 10_015


def _dermamnist(size: int, md5: str) -> Source:
    name = "dermamnist.npz" if size == 28 else f"dermamnist_{size}.npz"
    # A compressed npz is never much longer than its raw arrays: RGB pixels and an 8-byte label an image.
    limit = _IMAGES * (3 * size * size + 8) + 2_000_000
    return Source(
        DERMAMNIST, _ZENODO, (RemoteFile(name, f"{_ZENODO}/files/{name}?download=1", limit, md5),), opens=name
    )


SOURCES = {
    # The small files come first: a wrong folder or network shows within a second, not after 2.6 GB.
    "isic2018": Source(
        ISIC2018,
        "https://challenge.isic-archive.com/data/#2018",
        (
            RemoteFile(
                "ISIC2018_Task3_Training_LesionGroupings.csv",
                f"{_ISIC}/ISIC2018_Task3_Training_LesionGroupings.csv",
                max_bytes=2_000_000,
            ),
            RemoteFile(
                "ISIC2018_Task3_Training_GroundTruth.zip",
                f"{_ISIC}/ISIC2018_Task3_Training_GroundTruth.zip",
                max_bytes=1_000_000,
                folder="ISIC2018_Task3_Training_GroundTruth",
                max_members=20,
                max_unpacked_bytes=5_000_000,
            ),
            RemoteFile(
                "ISIC2018_Task3_Training_Input.zip",
                f"{_ISIC}/ISIC2018_Task3_Training_Input.zip",
                max_bytes=3_000_000_000,
                folder="ISIC2018_Task3_Training_Input",
                max_members=_IMAGES + 20,  # the images, their folder, licence and attribution
                max_unpacked_bytes=3_000_000_000,  # JPEGs: zipping does not shrink them
            ),
        ),
    ),
    "dermamnist": _dermamnist(28, "0744692d530f8e62ec473284d019b0c7"),
    "dermamnist_64": _dermamnist(64, "b70a2f5635c6199aeaa28c31d7202e1f"),
    "dermamnist_128": _dermamnist(128, "2defd784463fa5243564e855ed717de1"),
    "dermamnist_224": _dermamnist(224, "8974907d8e169bef5f5b96bc506ae45d"),
}
"""Every data set that `fetch` knows by name; one entry adds another."""
