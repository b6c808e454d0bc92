"""A multipart body as it comes: fields, and one file, of which no more is held than came since it was taken."""

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from .errors import ApiError, refused

MOST_FIELDS = 8
MOST_FIELD_BYTES = 1_000
MOST_NAME_CHARS = 512


class Form:
    """What a multipart body holds, as it comes.

    pending  bytes of the file that nobody has taken yet
    """

    def __init__(self, boundary: bytes) -> None:
        self.pending = bytearray()
        self.filename: str | None = None
        self.fields: dict[str, str] = {}
        self.is_over = False
        self._headers: dict[str, bytes] = {}
        self._header = bytearray()
        self._value = bytearray()
        self._name: str | None = None
        self._field = bytearray()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._headers.clear,
                "on_header_field": self._on_header,
                "on_header_value": self._on_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers,
                "on_part_data": self._on_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )

    def feed(self, data: bytes) -> None:
        """More of it.  Raises ApiError."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise no_form(str(error)) from None

    def take(self, most: int) -> bytes:
        """Bytes of the file that came, which are not held any more."""
        taken = bytes(self.pending[:most])
        del self.pending[:most]
        return taken

    def _on_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._header.decode("latin-1").lower()] = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _on_headers(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition"))
        self._name = _text(options.get(b"name", b""))[:64]
        if self._name == "file":
            if self.filename is not None:
                raise refused("file", "one file", code="invalid_value")
            self.filename = _text(options.get(b"filename", b"")) or "file"
            if len(self.filename) > MOST_NAME_CHARS:
                raise refused("file", f"its name may have {MOST_NAME_CHARS} characters", code="invalid_value")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == "file":
            self.pending += memoryview(data)[start:end]
            return
        self._field += memoryview(data)[start:end]
        if len(self._field) > MOST_FIELD_BYTES:
            raise refused(self._name or "", f"a field may have {MOST_FIELD_BYTES} bytes", code="invalid_value")

    def _on_part_end(self) -> None:
        if self._name != "file" and self._name is not None:
            self.fields[self._name] = _text(bytes(self._field))
            if len(self.fields) > MOST_FIELDS:
                raise no_form(f"it has more than {MOST_FIELDS} fields")
        self._name = None
        self._field.clear()

    def _on_end(self) -> None:
        self.is_over = True


def form_of(request: Request) -> Form:
    """For the body of a request.  Raises ApiError where it is none."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise ApiError(415, "the body must be multipart/form-data: file and purpose", code="not_multipart")
    try:
        return Form(boundary)
    except FormParserError as error:
        raise no_form(str(error)) from None


def no_form(why: str) -> ApiError:
    """Of a body."""
    return ApiError(400, f"the body is no multipart form: {why}", code="not_multipart")


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
