"""Paths: which exist, which methods each has, what its variable parts are called. Values only; knows no sockets.

A template is a path in which `{name}` stands for one segment and, at its end, `{name*}` for all that is left. Exact
paths win over templates, and of two templates the one that is literal where they first differ.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from headrace.api.errors import OPENAI, ErrorDialect
from headrace.core.identity import Identity
from headrace.server.exchange import Exchange

Handler = Callable[[Exchange, Identity], Awaitable[None]]

_OBSERVED: Final = frozenset({"admin", "accounts", "metrics"})


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path.

    `name` is the path or its template, in logs and metrics too; `scope` what a key needs for it (None: any key will
    do); `errors` how its protocol says no; an open route needs no key at all.
    """

    name: str
    method: str
    scope: str | None
    handler: Handler
    errors: ErrorDialect = OPENAI
    is_open: bool = False

    def admits(self, scopes: frozenset[str]) -> bool:
        """Whether a caller with these scopes may use it. Who observes may read what others may change."""
        if self.scope is None or self.scope in scopes:
            return True
        return self.method == "GET" and self.scope in _OBSERVED and "observe" in scopes


@dataclass(frozen=True, slots=True)
class Found:
    """The methods of a path that was asked for, and its variable parts."""

    methods: Mapping[str, Route]
    params: Mapping[str, str]

    @property
    def any(self) -> Route:
        """One of them: all have the same name and dialect."""
        return next(iter(self.methods.values()))

    def method(self, name: str) -> Route | None:
        """Who answers a method; HEAD is answered as GET, without its body."""
        return self.methods.get(name) or (self.methods.get("GET") if name == "HEAD" else None)

    def chosen(self, name: str) -> Route:
        """Whose rules hold for a method: its own route's, or those of the path if it has no such method."""
        return self.method(name) or self.any

    @property
    def allowed(self) -> tuple[str, ...]:
        """The methods there are."""
        return tuple(one for name in self.methods for one in ((name, "HEAD") if name == "GET" else (name,)))


class RouteTable:
    """All routes of a server."""

    def __init__(self, routes: Iterable[Route]) -> None:
        """Raises ValueError for two routes with one path and method."""
        self._exact: dict[str, dict[str, Route]] = {}
        self._templates: dict[tuple[str, ...], dict[str, Route]] = {}
        for route in routes:
            if "{" in route.name:
                methods = self._templates.setdefault(tuple(route.name.split("/")), {})
            else:
                methods = self._exact.setdefault(route.name, {})
            if route.method in methods:
                raise ValueError(f"{route.method} {route.name} is there twice")
            methods[route.method] = route
        self._templates = dict(sorted(self._templates.items(), key=_rank))
        self._found = {path: Found(methods, {}) for path, methods in self._exact.items()}

    def __iter__(self) -> Iterator[Route]:
        """Every route, exact paths first."""
        for methods in (*self._exact.values(), *self._templates.values()):
            yield from methods.values()

    def find(self, path: str) -> Found | None:
        """Who answers a path, if anybody does."""
        exact = self._found.get(path)
        if exact is not None:
            return exact
        segments = path.split("/")
        for template, methods in self._templates.items():
            params = _match(template, segments)
            if params is not None:
                return Found(methods, params)
        return None


def _rank(entry: tuple[tuple[str, ...], object]) -> list[tuple[int, str]]:
    return [(segment.endswith("*}") + segment.startswith("{"), segment) for segment in entry[0]]


def _match(template: tuple[str, ...], segments: list[str]) -> dict[str, str] | None:
    params: dict[str, str] = {}
    for index, part in enumerate(template):
        if part.endswith("*}"):
            rest = "/".join(segments[index:])
            return params | {part[1:-2]: rest} if rest else None
        if index >= len(segments) or not (segments[index] if part.startswith("{") else segments[index] == part):
            return None
        if part.startswith("{"):
            params[part[1:-1]] = segments[index]
    return params if len(template) == len(segments) else None
