"""Read delimited tables with any delimiter and decimal mark that spreadsheet programs use."""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from training.instances import parse_float

_SEPARATORS = ",;\t"
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


class TableRow(NamedTuple):
    """A row: its line number from 1, its values by column (empty if missing), and why these may be wrong, or None."""

    number: int
    values: Mapping[str, str]
    fault: str | None


@dataclass(frozen=True)
class Table:
    """A table: its columns' names in lower case, its other rows that are not empty, and whether 1,5 is a number."""

    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    decimal_comma: bool

    def parse_number(self, text: str) -> float:
        """Parse a number; NaN if the text is not one."""
        if self.decimal_comma and _DECIMAL_COMMA.fullmatch(text):
            text = text.replace(",", ".")
        return parse_float(text)


def read_table(text: str) -> Table:
    """Parse a table whose columns are separated by the most frequent of comma, semicolon and tab in its first row.

    A first line such as `sep=;`, as Excel writes it, sets the separator. Values are stripped; missing ones are empty.

    Raises:
        csv.Error: a field is too long.
    """
    skipped, separator = _find_separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    rows = ((reader.line_num, [value.strip() for value in row]) for row in reader)
    filled = ((line, row) for line, row in rows if line > skipped and any(row))
    columns = tuple(name.lower() for name in next(filled, (0, []))[1])
    return Table(columns, tuple(_make_rows(filled, columns)), separator != ",")


def _find_separator(text: str) -> tuple[int, str]:
    """Return the number of lines before the table, and its separator."""
    for number, line in enumerate(io.StringIO(text, newline="")):
        if line.lower().startswith("sep=") and len(line.strip("\r\n")) == len("sep=;"):
            return number + 1, line[4]
        if line.strip(_SEPARATORS + ' \r\n"'):
            return number, max(_SEPARATORS, key=lambda mark: len(next(csv.reader([line], delimiter=mark))))
    return 0, ","


def _make_rows(rows: Iterator[tuple[int, list[str]]], columns: tuple[str, ...]) -> Iterator[TableRow]:
    for number, row in rows:
        fault = None
        if any(row[len(columns) :]):
            fault = (
                f"{len(row)} values for {len(columns)} columns: numbers are written with a point (1.5), "
                "and what contains a comma in quotes"
            )
        yield TableRow(number, dict.fromkeys(columns, "") | dict(zip(columns, row, strict=False)), fault)
