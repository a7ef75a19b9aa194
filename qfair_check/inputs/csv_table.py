"""A ``.csv`` file becomes a table."""

import csv
from pathlib import Path

import numpy as np

from qfair_check.errors import InputError
from qfair_check.inputs.table import TextTable, require_distinct
from qfair_check.inputs.wording import counted


def read_csv(path: Path, source: str) -> TextTable:
    """Read a CSV file as text; unnamed columns are left out. A row is called by the line on which it starts.

    Raises
    ------
    InputError
        If it is no UTF-8 text, has no rows, or rows differ in length from the header.
    """
    rows: list[list[str]] = []
    lines: list[int] = []
    end = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True, skipinitialspace=True)
            for row in reader:
                start, end = end + 1, reader.line_num
                if len(row) > 1 or "".join(row).strip():
                    rows.append([cell.strip() for cell in row])
                    lines.append(start)
                    if len(row) != len(rows[0]):
                        raise InputError(
                            f"row {start} of {source} has {counted(len(row), 'field')} and the header "
                            f"{len(rows[0])}: quote fields that hold a comma"
                        )
    except UnicodeDecodeError as error:
        raise InputError(f"{source} is not UTF-8 text ({error.reason}): save it as UTF-8") from error
    except csv.Error as error:
        raise InputError(f"{source} is damaged in the record that starts in row {end + 1}: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror or error}") from error
    if not rows:
        raise InputError(f"{source} is empty: give a header, and one row for each sample")
    header = rows[0]
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise InputError(f"{source} has no commas in its header ({header[0]!r}): separate columns by commas")
    require_distinct(header, source)
    if len(rows) == 1:
        raise InputError(f"{source} has a header and no rows: give one row for each sample")
    cells = dict(zip(header, zip(*rows[1:], strict=True), strict=True))
    cells.pop("", None)
    return TextTable(
        source=source,
        folder=path.parent,
        size=len(rows) - 1,
        columns=tuple(cells),
        numbers=np.array(lines[1:], np.int64),
        cells=cells,
    )
