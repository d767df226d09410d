"""Writes the tables of studies into docs/study.md, from the stored records of their runs; trains nothing.

    python scripts/write_study_tables.py                      # of all records in reference/studies
    python scripts/write_study_tables.py runs/nano-full       # of a folder that `cocoa ablate` works in

The tables of a folder go between the markers of its study's name.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cocoa.ablation.analysis import analyse
from cocoa.ablation.records import STUDY, read_records, read_study
from cocoa.ablation.writing import has_place, markdown, put_between
from cocoa.files import write_file

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "study.md"
KEPT = ROOT / "reference" / "studies"


def with_tables(page: str, folder: Path) -> str:
    """Returns the page with the tables of a study's folder in their place."""
    study = read_study(folder)
    return put_between(page, study.name, markdown(analyse(study, read_records(folder))), str(PAGE))


def kept_folders(page: str) -> list[Path]:
    """Returns the folders of records that the project keeps, of studies that have a place in the page."""
    return [path.parent for path in sorted(KEPT.glob(f"*/{STUDY}")) if has_place(page, path.parent.name)]


def main() -> None:
    """Reads the folders named on the command line, or all that are kept, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    page = options.page.read_text()
    for folder in options.folders or kept_folders(page):
        page = with_tables(page, folder)
    write_file(options.page, page)


if __name__ == "__main__":
    main()
