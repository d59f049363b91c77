"""`rareshot report RESULTS`: the paper's tables and figures from the raw lines."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rareshot.atomic import write_atomically
from rareshot.commands.options import parse
from rareshot.commands.terminal import CONSOLE
from rareshot.reporting import TITLE, report


@dataclass(frozen=True)
class ReportOptions:
    """Draw the paper's tables and figures beside its own numbers, from raw lines, their summaries and the logs: no image, no
    learner is read.

    Writes one HTML page that holds all it shows and prints well, and its tables beside it as Markdown and LaTeX: report.html,
    report.md, report.tex. An empty cell says that it was not run.

    Example: rareshot report results/laptop --out report.html
    """

    results: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RESULTS")]
    """Folder under which `rareshot reproduce` or `rareshot evaluate` left results, at any depth."""
    out: Path = Path("report.html")
    """The page; the tables take its name with .md and .tex."""


def report_command(args: Sequence[str]) -> None:
    """Parse and run `rareshot report`."""
    options = parse(ReportOptions, args, "rareshot report")
    if options.out.suffix != ".html" or options.out.is_dir():
        raise ValueError(f"--out {options.out} must be a file whose name ends in .html, as in --out report.html")
    drawn = report(options.results)
    texts = {".html": drawn.html, ".md": drawn.markdown, ".tex": drawn.latex}
    files = {options.out.with_suffix(suffix): text for suffix, text in texts.items()}
    for file, text in files.items():
        _refuse_another(file, text)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        write_atomically(file, text.encode())
    page, *tables = files
    CONSOLE.print(f"open {page}; tables: {', '.join(map(str, tables))}", soft_wrap=True)


def _refuse_another(file: Path, text: str) -> None:
    """Refuse to write over what is no report: its first lines are not ours.

    Raises:
        ValueError: naming the file.
    """
    mark = TITLE.partition(":")[0]
    head = text[: text.index(mark) + len(mark)]
    if file.exists() and (not file.is_file() or not file.read_bytes().startswith(head.encode())):
        raise ValueError(f"{file} is there already and is no report of rareshot; move it away, or choose another --out")
