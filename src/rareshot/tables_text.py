"""Tables as Markdown and as LaTeX, escaped, for papers and READMEs (not in the paper)."""

import re
from collections.abc import Sequence

from rareshot.report import Table, legible

MARKDOWN = {**{char: "\\" + char for char in "\\`*_[]|#~$!"}, "<": "&lt;", ">": "&gt;", "&": "&amp;"}
LATEX = {
    "\\": r"\textbackslash{}",
    **{char: "\\" + char for char in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "[": "{[}",  # after the line break of a row it would begin an option
    "]": "{]}",
    "\N{MINUS SIGN}": "$-$",
    "\N{EN DASH}": "--",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    "\N{NO-BREAK SPACE}": "~",
    "η": r"$\eta$",
    "γ": r"$\gamma$",
    "ε": r"$\varepsilon$",
}


PAPERS = re.compile(r"^(Table \d+):")


def markdown(title: str, tables: Sequence[Table]) -> str:
    """All tables under one heading, each below its caption."""
    blocks = [f"# {as_markdown(title)}"]
    for table in tables:
        blocks += [f"**{as_markdown(table.caption)}**", markdown_rows(table.header, table.rows)]
    return "\n\n".join(blocks) + "\n"


def markdown_rows(header: Sequence[str], rows: Sequence[Sequence[str]], *, escape: bool = True) -> str:
    """A table without its caption.

    Args:
        escape: show the cells as they are; False: they are Markdown.
    """
    lines = [[as_markdown(cell) if escape else cell for cell in line] for line in (header, *rows)]
    drawn = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([drawn[0], "|---" * len(header) + "|", *drawn[1:]])


def latex(title: str, tables: Sequence[Table]) -> str:
    """A `table` environment for each, to be read with `\\input`; needs the packages booktabs and graphicx.

    LaTeX numbers them by itself, so that "Table 1: …" becomes "Table 1 of the paper: …".
    """
    blocks = [f"% {' '.join(title.split())}\n% \\usepackage{{booktabs,graphicx}}"]
    for table in tables:
        caption = PAPERS.sub(r"\1 of the paper:", table.caption)
        rows = [" & ".join(map(_latex, line)) + r" \\" for line in table.rows]
        blocks.append(
            "\n".join(
                [
                    r"\begin{table}",
                    r"\centering",
                    rf"\caption{{{_latex(caption)}}}",
                    r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
                    rf"\begin{{tabular}}{{{'l' * len(table.header)}}}",
                    r"\toprule",
                    " & ".join(map(_latex, table.header)) + r" \\",
                    r"\midrule",
                    *rows,
                    r"\bottomrule",
                    r"\end{tabular}}",
                    r"\end{table}",
                ]
            )
        )
    return "\n\n".join(blocks) + "\n"


def as_markdown(text: str) -> str:
    """A text that Markdown shows as it is, on one line."""
    return " ".join("".join(MARKDOWN.get(char, char) for char in text).split(None))


def _latex(text: str) -> str:
    return "".join(LATEX.get(char, char) for char in legible(text.replace("\n", " ")))
