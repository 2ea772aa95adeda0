"""A form that carries one file (`multipart/form-data`, RFC 7578), read as it arrives: fields stay, file bytes pass.

The parsing is python-multipart's; here are the bounds and the words. Whatever bytes come, `feed` and `finish` return or
raise InvalidRequest. Nothing here grows with the file. Knows no routes and no disk.
"""

import logging
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from headrace.core.errors import InvalidRequest, PayloadTooLarge

MAX_FIELDS: Final = 16
MAX_FIELD_BYTES: Final = 4096
MAX_HEADERS: Final = 8
MAX_HEADER_BYTES: Final = 4096
FILE: Final = "file"

# The parser warns of every broken form, which its sender is told; a log is not for senders to fill.
_SILENT = logging.Logger("headrace.multipart", logging.CRITICAL + 1)


class FormReader:
    """One form. `fields` are what came so far, by name; `filename` is None until the file begins."""

    def __init__(self, content_type: bytes) -> None:
        """Raises InvalidRequest for a body that is no form."""
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not boundary:
            raise InvalidRequest(
                "content-type: a form is needed; send multipart/form-data with a boundary, as `curl -F` does.",
                param="content-type",
            )
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.is_complete = False
        self._name = ""
        self._value = bytearray()
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition: bytes | None = None
        self._pieces: list[bytes] = []
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_part_data": self._take,
                    "on_part_end": self._end_part,
                    "on_header_field": self._take_header_name,
                    "on_header_value": self._take_header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_end": self._end,
                },
                max_header_count=MAX_HEADERS,
                max_header_size=MAX_HEADER_BYTES,
            )
        except FormParserError as error:
            raise _broken(error) from None
        self._parser.logger = _SILENT

    def feed(self, data: bytes) -> list[bytes]:
        """The bytes of the file that are in the next bytes of the body. Raises InvalidRequest, PayloadTooLarge."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _broken(error) from None
        pieces, self._pieces = self._pieces, []
        return pieces

    def finish(self) -> None:
        """The body is over. Raises InvalidRequest if the form is not, or if it has no file."""
        if not self.is_complete:
            raise InvalidRequest("the form ends before its last boundary; send all of it.", code="invalid_form")
        if self.filename is None:
            raise InvalidRequest(
                f"{FILE}: is missing; send the file in a part of that name.",
                param=FILE,
                code="missing_required_parameter",
            )

    def _begin_part(self) -> None:
        self._disposition = None
        self._value.clear()

    def _take_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _take_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _end_headers(self) -> None:
        kind, options = parse_options_header(self._disposition)
        if kind != b"form-data" or b"name" not in options:
            raise InvalidRequest("a part of the form has no name; give each one.", code="invalid_form")
        self._name = options[b"name"].decode("utf-8", "replace")
        shown = self._name[:100]
        if self._name == FILE:
            if self.filename is not None:
                raise InvalidRequest(f"{FILE}: is there twice; send one file at a time.", param=FILE)
            name = options.get(b"filename", b"").decode("utf-8", "replace")
            self.filename = "".join(one for one in name if one.isprintable())[:255] or "file"
        elif self._name in self.fields:
            raise InvalidRequest(f"{shown}: is there twice; send it once.", param=shown)
        elif len(self.fields) >= MAX_FIELDS:
            raise InvalidRequest(f"the form has more than {MAX_FIELDS} fields; send fewer.", code="invalid_form")

    def _take(self, data: bytes, start: int, end: int) -> None:
        if self._name == FILE:
            self._pieces.append(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES:
            shown = self._name[:100]
            raise PayloadTooLarge(f"{shown}: is longer than {MAX_FIELD_BYTES} bytes; shorten it.", param=shown)

    def _end_part(self) -> None:
        if self._name == FILE:
            return
        try:
            self.fields[self._name] = self._value.decode()
        except UnicodeDecodeError:
            shown = self._name[:100]
            raise InvalidRequest(f"{shown}: is not UTF-8; send text.", param=shown) from None

    def _end(self) -> None:
        self.is_complete = True


def _broken(error: FormParserError) -> InvalidRequest:
    return InvalidRequest(f"the form cannot be read: {str(error)[:200]}.", code="invalid_form")
