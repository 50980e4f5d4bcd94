"""The files of a table: CSV and JSON for programs, Markdown for people; the JSON holds all of it."""

from pathlib import Path

import pandas as pd

from melano_tf.errors import InputError
from melano_tf.reports.table_layout import markdown
from melano_tf.reports.tables import Headline, Table, frame_of, records
from melano_tf.runs.atomic_files import atomic, read_json, write_csv, write_json
from melano_tf.runs.settings_digest import plain


def write_table(folder: Path, name: str, table: Table) -> list[Path]:
    """Write `<name>.csv` (one row a cell, NaN empty), `<name>.md` and `<name>.json`, each atomically; returns them."""
    csv, text, data = (Path(folder) / f"{name}.{kind}" for kind in ("csv", "md", "json"))
    write_csv(csv, table.frame)
    with atomic(text) as temporary:
        temporary.write_text(markdown(table), encoding="utf-8")
    cells = [{key: value for key, value in cell.items() if not pd.isna(value)} for cell in records(table.frame)]
    said = {key: value for key, value in vars(table).items() if key != "frame"}
    write_json(data, {**plain(said), "cells": cells})
    return [csv, text, data]


def read_table(path: Path) -> Table:
    """A table from its JSON file.

    Raises:
        InputError: it cannot be read, or is no table.
    """
    try:
        said = dict(read_json(path))
        frame = frame_of(said.pop("cells"))
        first = tuple(Headline(**one) for one in said.pop("headlines"))
        return Table(**{**said, "notes": tuple(said["notes"])}, frame=frame, headlines=first)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: cannot be read as a table ({' '.join(str(error).split())})") from None
