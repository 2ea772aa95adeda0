"""Whether two URLs are the same, as RFC 3986 has it: case and escapes (section 6.2.2), default ports and empty paths
(section 6.2.3). Without query and fragment, as RFC 9449, section 4.3, compares."""

import re
from typing import Final
from urllib.parse import urlsplit

from headrace.trust.strict import NotStrict

_PORTS: Final = {"http": 80, "https": 443}
_URL: Final = re.compile(r"[!-~]{1,2048}")
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def normalize(url: str) -> str:
    """The one form of a URL of http or https. Raises NotStrict for what is none."""
    if not _URL.fullmatch(url):
        raise NotStrict("is no URL")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise NotStrict("is no URL") from error
    if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc:
        raise NotStrict("is no URL of http or https")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else _unescape(parts.hostname).lower()
    shown = "" if port in (None, _PORTS[parts.scheme]) else f":{port}"
    return f"{parts.scheme}://{host}{shown}{_without_dots(_unescape(parts.path)) or '/'}"


def _unescape(text: str) -> str:
    """Escapes of what needs none are read, the rest are in capitals (sections 6.2.2.1 and 6.2.2.2)."""

    def one(found: re.Match[str]) -> str:
        character = chr(int(found[1], 16))
        return character if character in _UNRESERVED else found[0].upper()

    return _ESCAPE.sub(one, text)


def _without_dots(path: str) -> str:
    """Section 5.2.4."""
    if "/." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")
    for index, segment in enumerate(segments):
        is_last = index == len(segments) - 1
        if segment == "..":
            if len(kept) > 1:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
            continue
        if is_last:
            kept.append("")
    return "/".join(kept)
