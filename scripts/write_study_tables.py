"""Writes the tables and charts of docs/study.md, from the stored records of studies' runs; trains nothing.

    python scripts/write_study_tables.py                      # of all records in reference/studies
    python scripts/write_study_tables.py runs/nano-full       # of a folder that `cocoa ablate` works in

The tables of a folder go between the markers of its study's name; its charts are those that the page shows as
`NAME-CHART.svg`, CHART as in the folder `charts` that `cocoa ablate` writes.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from cocoa.ablation.analysis import analyse
from cocoa.ablation.records import STUDY, read_records, read_study
from cocoa.ablation.writing import has_place, markdown, put_between
from cocoa.files import write_file
from cocoa.report.charts import standalone
from cocoa.report.study_page import study_charts

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "study.md"
KEPT = ROOT / "reference" / "studies"


def with_tables(page: str, folder: Path) -> str:
    """Returns the page with the tables of a study's folder in their place."""
    study = read_study(folder)
    return put_between(page, study.name, markdown(analyse(study, read_records(folder))), str(PAGE))


def charts_shown(page: str, folder: Path) -> dict[str, str]:
    """Returns the charts of a study's folder that the page shows, by file name."""
    study = read_study(folder)
    wanted = set(re.findall(r"\]\(([\w-]+)\.svg\)", page))
    charts = study_charts(analyse(study, read_records(folder)).to_dict())
    named = {f"{study.name}-{name}": chart for name, chart in charts.items()}
    return {f"{name}.svg": standalone(chart) for name, chart in named.items() if name in wanted}


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
        for name, chart in charts_shown(page, folder).items():
            write_file(options.page.parent / name, chart)
    write_file(options.page, page)


if __name__ == "__main__":
    main()
