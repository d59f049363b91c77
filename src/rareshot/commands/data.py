"""`rareshot data check|prepare|fetch`: look at a data set, decode it once, download one."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rareshot.commands.options import parse
from rareshot.commands.terminal import CONSOLE, STATUS, data_progress
from rareshot.data.check import check
from rareshot.data.fetch import fetch
from rareshot.data.sources import SOURCES
from rareshot.data.store import prepare

Rare = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True)
class Check:
    """Look at every file of a data set and say what is in it, what is wrong with it, and which tasks it can support.

    Prints classes, images, lesions, extra columns, sizes, exact and near duplicates, and every bad file by name and reason.

    Example: rareshot data check my-images/ --rare rosacea --rare lupus
    """

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA")]
    """A folder (a folder a class; images/ + labels.csv; ISIC 2018; HAM10000; Dermofit), a table path,label[,group], or .npz."""
    rare: Rare = ()
    """A class to keep unseen; say it once for each. None: as the data set's card says."""
    all: bool = False
    """Print every duplicate and every file that is left out, not the first 20 of a kind."""


@dataclass(frozen=True)
class Prepare:
    """Decode a data set once into a store that everything else then uses by itself. Resumes after a kill.

    Example: rareshot data prepare isic2018/ --size 84
    """

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA")]
    """A data set; see `rareshot data check`."""
    size: int = 84
    """Image size in pixels a side, mostly 28 to 224."""
    out: Path | None = None
    """The store's folder; None: beside the data, or in the user's cache where that cannot be written."""
    rare: Rare = ()
    """A class to keep unseen; say it once for each. None: as the data set's card says."""


@dataclass(frozen=True)
class Fetch:
    """Download a data set from its publisher, checked and safely unpacked. Resumes where it stopped.

    Example: rareshot data fetch isic2018 --out isic2018/
    """

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """isic2018 (2.6 GB), dermamnist, dermamnist_64, dermamnist_128 or dermamnist_224."""
    out: Path
    """Folder to put it in."""


COMMANDS: dict[str, type[Check | Prepare | Fetch]] = {"check": Check, "prepare": Prepare, "fetch": Fetch}


def data(args: Sequence[str]) -> None:
    """Parse and run `rareshot data`."""
    known = ", ".join(COMMANDS)
    if args and args[0] in ("-h", "--help"):
        CONSOLE.print(
            f"rareshot data check|prepare|fetch: {__doc__.split(': ')[1].splitlines()[0]}\nmore: rareshot data check --help"
        )
        return
    if not args or args[0] not in COMMANDS:
        raise ValueError(f"data needs one of {known}" + (f"; got {args[0]!r}" if args else ""))
    options = parse(COMMANDS[args[0]], args[1:], f"rareshot data {args[0]}")
    match options:
        case Check():
            with data_progress("checking") as show:
                report = check(options.path, rare=options.rare, observe=show)
            for line in report.lines(most=sys.maxsize) if options.all else report.lines():
                CONSOLE.print(line, markup=False, soft_wrap=True)
        case Prepare():
            with data_progress("decoding") as show:
                store = prepare(options.path, options.size, out=options.out, rare=options.rare, observe=show)
            CONSOLE.print(f"store: {store}", markup=False, soft_wrap=True)
        case Fetch():
            card = SOURCES[options.name].card if options.name in SOURCES else None
            if card is not None:
                STATUS.print(
                    f"{card.title}\nlicence: {card.licence}\ncite: {card.citation}", markup=False, soft_wrap=True
                )
            with data_progress(f"fetching {options.name}") as show:
                found = fetch(options.name, options.out, observe=show)
            CONSOLE.print(f"fetched: {found}", markup=False, soft_wrap=True)
