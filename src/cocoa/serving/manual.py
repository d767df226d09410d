"""`/docs`: the routes and what they take, in one page that loads nothing from elsewhere."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request
from jinja2 import Environment
from starlette.responses import HTMLResponse

from cocoa.serving.service import needs

router = APIRouter(dependencies=[needs("embed")])
_PAGE = Environment(autoescape=True).from_string("""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{ title }}</title>
<style>:root{color-scheme:light dark}body{font:16px/1.5 system-ui;max-width:50rem;margin:2rem auto;padding:0 1rem}
pre{overflow:auto;padding:1rem;border:1px solid #8888}code{font-size:.9em}</style>
<h1>{{ title }}</h1><p>The same as <a href="/openapi.json">/openapi.json</a>, to be read.</p>
{% for route in routes %}<h2><code>{{ route.method }} {{ route.path }}</code></h2><p>{{ route.description }}</p>
{% if route.body %}<details><summary>Body: {{ route.body }}</summary><pre>{{ route.schema }}</pre></details>{% endif %}
{% endfor %}</html>""")


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """What can be asked, as a page."""
    described = request.app.openapi()
    routes = [
        {"method": method.upper(), "path": path, "description": entry.get("description", "")}
        | _body(entry, described.get("components", {}).get("schemas", {}))
        for path, methods in described["paths"].items()
        for method, entry in methods.items()
    ]
    page = _PAGE.render(title=f"{described['info']['title']} {described['info']['version']}", routes=routes)
    return HTMLResponse(page, headers={"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"})


def _body(entry: dict[str, Any], schemas: dict[str, Any]) -> dict[str, str]:
    content = entry.get("requestBody", {}).get("content", {})
    reference = content.get("application/json", {}).get("schema", {}).get("$ref", "")
    name = reference.rpartition("/")[2]
    return {"body": name, "schema": json.dumps(schemas[name]["properties"], indent=2)} if name else {}
