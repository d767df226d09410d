"""Writes the tables of studies into docs/study.md, from the stored records of their runs; trains nothing.

    python scripts/write_study_tables.py runs/nano-full runs/nano-few-shot

Each folder is one that `cocoa ablate` wrote; its tables go between the markers of its study's name.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cocoa.ablation.analysis import analyse, read_records
from cocoa.ablation.job import STUDY
from cocoa.ablation.study import Study
from cocoa.ablation.writing import markdown, put_between
from cocoa.files import write_file
from cocoa.recipe import read_options

PAGE = Path(__file__).parents[1] / "docs" / "study.md"


def with_tables(page: str, folder: Path) -> str:
    """Returns the page with the tables of a study's folder in their place."""
    study = read_options(Study, json.loads((folder / STUDY).read_text()), where=str(folder / STUDY))
    return put_between(page, study.name, markdown(analyse(study, read_records(folder))), str(PAGE))


def main() -> None:
    """Reads the folders named on the command line and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    page = options.page.read_text()
    for folder in options.folders:
        page = with_tables(page, folder)
    write_file(options.page, page)


if __name__ == "__main__":
    main()
