"""The search page and what it asks for: its routes go to `router`, which the application includes."""

from __future__ import annotations

from fastapi import APIRouter

from cocoa.serving.service import needs

router = APIRouter(tags=["page"], dependencies=[needs("search")])
