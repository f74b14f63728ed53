"""Tables as Markdown, for pages of documentation."""

from __future__ import annotations

from isthmus.report.tables import Table

_NUMBERS = ("number", "measure")


def markdown_table(table: Table) -> str:
    """A table in GitHub's Markdown; intervals stand behind their values.

    Example:
        >>> from isthmus.report.tables import Cell, Column
        >>> columns = (Column("a", "name"), Column("b"))
        >>> print(markdown_table(Table("", columns, ((Cell("x"), Cell("1", "[0, 2]")),))))
        | a | b |
        |---|---:|
        | x | 1 [0, 2] |
    """
    head = [column.name for column in table.columns]
    rule = ["---:" if column.kind in _NUMBERS else "---" for column in table.columns]
    body = [[f"{cell.text} {cell.detail}".strip() for cell in row] for row in table.rows]
    lines = [_row(head), "|" + "|".join(rule) + "|", *map(_row, body)]
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
