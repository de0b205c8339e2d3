"""The API for people: one self-contained page, rendered once from the OpenAPI document.

No script and nothing fetched from elsewhere: it works on a machine without a network.
"""

from __future__ import annotations

import json
import re
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #2f7d5b; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 58rem; margin: 2rem auto;
padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
code, pre { font: 13px/1.5 ui-monospace, monospace; }
pre { background: var(--soft); padding: .7rem 1rem; border-radius: 6px; overflow-x: auto; }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0;
padding: .45rem .8rem; }
summary { cursor: pointer; } summary small { opacity: .8; }
.method { display: inline-block; min-width: 4.2rem; font-weight: 700; color: var(--accent); }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; vertical-align: top;
padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line); }
nav a { margin-right: 1rem; } a { color: var(--accent); }
"""

_QUICK_START = """\
curl -X POST localhost:8080/vectors -H 'Content-Type: application/json' -d \\
  '{"vectors": [{"id": "vec1", "dimensions": [0.1, 0.2, 0.3, 0.4]}]}'
curl -X POST localhost:8080/query -H 'Content-Type: application/json' -d \\
  '{"vector": [0.1, 0.2, 0.3, 0.4], "k": 10}'"""


def render_docs(document: dict[str, Any]) -> bytes:
    """The page, UTF-8."""
    groups: dict[str, list[str]] = {tag["name"]: [] for tag in document["tags"]}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            groups[operation["tags"][0]].append(_operation(method, path, operation))
    links = " ".join(f'<a href="#{_slug(tag)}">{escape(tag)}</a>' for tag in groups)
    sections = "".join(
        f'<h2 id="{_slug(tag)}">{escape(tag.capitalize())}</h2>{"".join(parts)}'
        for tag, parts in groups.items()
    )
    schemas = "".join(
        _schema(name, schema) for name, schema in document["components"]["schemas"].items()
    )
    info = document["info"]
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width">'
        f"<title>vector-db API</title><style>{_STYLE}</style>"
        f"<h1>vector-db</h1><p>Version {escape(info['version'])} · "
        '<a href="/openapi.json">openapi.json</a></p>'
        f"{_paragraphs(info['description'])}<pre>{escape(_QUICK_START)}</pre>"
        f'<nav>{links} <a href="#bodies">bodies</a></nav>{sections}'
        f"<h2 id=bodies>Bodies</h2>{schemas}</html>"
    )
    return page.encode()


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [
        f"<details><summary><span class=method>{method.upper()}</span> <code>{escape(path)}</code> "
        f"<small>{_inline(operation['summary'])}</small></summary>"
    ]
    given = operation.get("parameters", [])
    for place, title in (("query", "Query parameters"), ("header", "Headers")):
        named = {p["name"]: p["description"] for p in given if p["in"] == place}
        if named:
            parts.append(f"<p>{title}</p>{_table(named)}")
    for kind, media in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>Body <code>{escape(kind)}</code> {_type(media['schema'])}</p>")
        if "example" in media:
            parts.append(f"<pre>{escape(json.dumps(media['example']))}</pre>")
    for status, answer in operation["responses"].items():
        content = answer.get("content", {}).get("application/json")
        shown = f" {_type(content['schema'])}" if content else ""
        label = "error" if status == "default" else status
        parts.append(f"<p>Answer <b>{label}</b>{shown}: {_inline(answer['description'])}</p>")
        if told := {name: one["description"] for name, one in answer.get("headers", {}).items()}:
            parts.append(f"<p>Headers of the answer</p>{_table(told)}")
    return "".join(parts) + "</details>"


def _table(named: dict[str, str]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code><td>{_inline(text)}" for name, text in named.items()
    )
    return f"<table>{rows}</table>"


def _schema(name: str, schema: dict[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code>{'' if field in required else ' (optional)'}"
        f"<td>{_type(given)}<td>{_inline(given.get('description', ''))}"
        for field, given in schema.get("properties", {}).items()
    )
    text = _inline(schema.get("description", "").replace("\n", " "))
    return f"<h3 id={escape(name)}>{escape(name)}</h3><p>{text}</p><table>{rows}</table>"


def _type(schema: dict[str, Any]) -> str:
    """A short HTML rendering of a JSON schema's type."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[-1])
        return f'<a href="#{name}">{name}</a>'
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(_type(one) for one in schema[key])
    if "enum" in schema:
        return " | ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(json.dumps(schema['const']))}</code>"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    text = escape(str(schema.get("type", "any")))
    if schema.get("contentEncoding"):
        text += f" ({escape(schema['contentEncoding'])})"
    least, most = schema.get("minimum"), schema.get("maximum")
    if most is not None:
        text += f" {least or 0} to {most}"
    if schema.get("default") is not None:
        text += f", default <code>{escape(json.dumps(schema['default']))}</code>"
    return text


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_inline(part)}</p>" for part in text.split("\n\n"))


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))


def _slug(tag: str) -> str:
    return re.sub(r"\W+", "-", tag)
