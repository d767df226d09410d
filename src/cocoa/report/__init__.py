"""Reports as one HTML file each: no script, nothing loaded from elsewhere, light and dark."""

from cocoa.report.content import (
    BridgedWords,
    HiddenWord,
    QuickstartContent,
    RebuiltPicture,
    RebuiltWords,
    Search,
    SearchHit,
    VariantResult,
)
from cocoa.report.page import quickstart_page, train_page

__all__ = [
    "BridgedWords",
    "HiddenWord",
    "QuickstartContent",
    "RebuiltPicture",
    "RebuiltWords",
    "Search",
    "SearchHit",
    "VariantResult",
    "quickstart_page",
    "train_page",
]
