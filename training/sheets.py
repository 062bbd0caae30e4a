"""Reads delimited tables, whatever delimiter and decimal mark a spreadsheet has used."""

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

_SEPARATORS = ",;\t"
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


class Line(NamedTuple):
    """A row of a table.

    Attributes:
        number: of the line in the file, from 1.
        values: by column; empty where there is none.
        fault: why the values may stand in wrong columns; None if they do not.
    """

    number: int
    values: Mapping[str, str]
    fault: str | None


@dataclass(frozen=True)
class Sheet:
    """A table whose first row names its columns.

    Attributes:
        columns: their names, in lower case.
        lines: the other rows; those without any value are left out.
        decimal_comma: whether 1,5 is a number: where commas do not separate columns.
    """

    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    decimal_comma: bool

    def number(self, text: str) -> float:
        """NaN for what is no number."""
        if self.decimal_comma and _DECIMAL_COMMA.fullmatch(text):
            text = text.replace(",", ".")
        try:
            return float(text)
        except ValueError:
            return math.nan


def read_sheet(text: str) -> Sheet:
    """Columns separated by commas, semicolons or tabs, whichever the first row has most of.

    A first line `sep=;`, as Excel writes it, is obeyed. Values lose spaces around them; missing ones are empty.

    Raises:
        csv.Error: a field that is too long.
    """
    first, separator = _begin(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    rows = ((reader.line_num, [value.strip() for value in row]) for row in reader)
    filled = ((line, row) for line, row in rows if line > first and any(row))
    columns = tuple(name.lower() for name in next(filled, (0, []))[1])
    return Sheet(columns, tuple(_lines(filled, columns)), separator != ",")


def _begin(text: str) -> tuple[int, str]:
    """How many lines come before the table, and what separates its columns."""
    for number, line in enumerate(io.StringIO(text, newline="")):
        if line.lower().startswith("sep=") and len(line.strip("\r\n")) == len("sep=;"):
            return number + 1, line[4]
        if line.strip(_SEPARATORS + ' \r\n"'):
            return number, max(_SEPARATORS, key=lambda mark: len(next(csv.reader([line], delimiter=mark))))
    return 0, ","


def _lines(rows: Iterator[tuple[int, list[str]]], columns: tuple[str, ...]) -> Iterator[Line]:
    for number, row in rows:
        fault = None
        if any(row[len(columns) :]):
            fault = (
                f"{len(row)} values for {len(columns)} columns: numbers are written with a point (1.5), "
                "and what contains a comma in quotes"
            )
        yield Line(number, dict.fromkeys(columns, "") | dict(zip(columns, row, strict=False)), fault)
