"""What the console's page is told of its session, and what the OpenAPI document says of each of its routes."""

from typing import Final, Literal

import msgspec

from headrace.api.openapi_operation import Operation

_PAGE: Final = ("text/html",)
_FILES: Final = ("text/javascript", "text/css")


class SessionAnswer(msgspec.Struct, kw_only=True):
    """Who is signed in. `expires` is when the session ends, Unix time; null where there is none: without keys, or where
    the connection itself says who calls."""

    object: Literal["console.session"]
    needs_sign_in: bool = False
    name: str | None = None
    tenant: str | None = None
    scopes: list[str] = []
    expires: float | None = None


CONSOLE_OPERATIONS: Final = {
    ("GET", "/console"): Operation("Where the console is."),
    ("GET", "/console/"): Operation("The console's page.", media=_PAGE),
    ("GET", "/console/{path*}"): Operation("The console's page, at one of its views.", media=_PAGE),
    ("GET", "/console/static/{name}"): Operation("A file of the console's page.", media=_FILES),
    ("GET", "/console/session"): Operation("Who is signed in.", answer=SessionAnswer),
    ("POST", "/console/session"): Operation("Sign in: a key or token for a cookie.", answer=SessionAnswer),
    ("DELETE", "/console/session"): Operation("Sign out."),
}
