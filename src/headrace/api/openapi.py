"""The OpenAPI 3.1 document of a server: its own list of routes, with what `openapi_routes.py` knows of each.

Bodies are the very structs that the codecs read, so that a field which a codec takes is in the document and no other.
Values of fields are held to more than a schema can say; such a request is refused with 400. Knows no server.

Source: https://spec.openapis.org/oas/v3.1.0
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from headrace.api.errors import ErrorDialect
from headrace.api.openapi_operation import Operation
from headrace.api.openapi_routes import ERRORS, OPERATIONS, UNKNOWN
from headrace.api.openapi_values import refine, shown_name, struct_named

JSON: Final = "application/json"
# What is said of a stream holds for each of its events.
_MEDIA: Final[dict[str, Any]] = {
    "text/event-stream": {
        "type": "object",
        "properties": {"data": {"type": "string"}, "event": {"type": "string"}},
        "required": ["data"],
    }
}
_REF: Final = "#/components/schemas/{name}"
_HEADERS: Final = {"x-request-id": {"description": "Names the exchange in logs.", "schema": {"type": "string"}}}


class Listed(NamedTuple):
    """A route as a server has it; `is_open` says that it needs no key."""

    path: str
    method: str
    errors: ErrorDialect
    is_open: bool


def document(routes: Iterable[Listed], version: str) -> bytes:
    """The document as JSON."""
    listed = sorted(routes, key=lambda route: (route.path, route.method))
    described = [(route, OPERATIONS.get((route.method, route.path), UNKNOWN)) for route in listed]
    types = {id(one): one for _, operation in described for one in operation.types()}
    types |= {id(one): one for one in ERRORS.values()}
    schemas, components = msgspec.json.schema_components(types.values(), ref_template=_REF)
    components = {name: refine(struct_named(name), one) for name, one in components.items()}
    named = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route, operation in described:
        paths.setdefault(shown_path(route.path), {})[route.method.lower()] = _operation(route, operation, named)
    whole = {
        "openapi": "3.1.0",
        "info": {"title": "Headrace", "version": version},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }
    return _with_short_names(msgspec.json.encode(whole), components)


def _with_short_names(text: bytes, components: Iterable[str]) -> bytes:
    """Names with a module in them are told apart by their dialect alone."""
    for name in components:
        if "." in name:
            text = text.replace(f'"{name}":'.encode(), f'"{shown_name(name)}":'.encode())
            text = text.replace(f'{_REF[:-6]}{name}"'.encode(), f'{_REF[:-6]}{shown_name(name)}"'.encode())
    return text


def shown_path(template: str) -> str:
    """A route's template as OpenAPI writes it, which has no word for "the rest of the path"."""
    return template.replace("*}", "}")


def _operation(route: Listed, operation: Operation, named: Mapping[int, Any]) -> dict[str, Any]:
    parameters = [
        {"name": part[1:-1], "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for part in shown_path(route.path).split("/")
        if part.startswith("{")
    ]
    parameters += [{"name": name, "in": "query", "schema": named[id(kind)]} for name, kind in operation.query.items()]
    content = {media: {"schema": _MEDIA.get(media, {"type": "string"})} for media in operation.media}
    if operation.answer is not None:
        content[JSON] = {"schema": named[id(operation.answer)]}
    refused = {"schema": named[id(ERRORS[route.errors.name])]}
    out: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": _name(route),
        "parameters": parameters,
        "responses": {
            "200": {"description": "Done.", "headers": _HEADERS, "content": content},
            "default": {"description": "Refused.", "headers": _HEADERS, "content": {JSON: refused}},
        },
        "security": [] if route.is_open else [{"key": []}, {}],
    }
    if operation.body is not None:
        content = {operation.takes: {"schema": named[id(operation.body)]}}
        out["requestBody"] = {"required": operation.needs_body, "content": content}
    return out


def _name(route: Listed) -> str:
    words = [route.method.lower(), *shown_path(route.path).replace("{", "").replace("}", "").split("/")]
    return "_".join(word.replace(".", "_") for word in words if word)
