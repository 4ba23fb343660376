"""Parses one response of an upstream with httptools.

The content of a response is trusted, its framing is not. Interim responses (RFC 9110 section 15.2)
are skipped. An upgrade, a transfer coding other than chunked, a status outside 100 to 599 and more
than `MAX_BYTES_OUTSIDE_BODY` bytes without a byte of body are rejected. A body without a length
ends with the connection (RFC 9112 section 6.3, rule 8).

Any byte behind the end of a response is noticed (`extra_data`). llhttp skips carriage returns and
line feeds there without a callback, so the parser counts what it was fed: all of it is head and
body, or the tail of the chunked coding.
"""

import httptools

from proxy.errors import Unavailable
from proxy.model import Reason

# Bytes that may arrive without a byte of body: headers, interim responses, chunk extensions.
MAX_BYTES_OUTSIDE_BODY = 65_536
# The end of a head, and of the last chunk with its trailers (RFC 9112 section 7.1).
_END_OF_HEAD = b"\r\n\r\n"
# Bytes at the end of a chunked body that show whether it ends there: a byte that is no line end,
# then `_END_OF_HEAD`.
_TAIL_BYTES = len(_END_OF_HEAD) + 1


class ResponseParser:
    """The state of one response. The callbacks have httptools' names."""

    def __init__(self, head_only: bool) -> None:
        """Expect a response, to HEAD if `head_only`: it ends with its headers."""
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        # The final head is complete; what follows is body.
        self.in_body = False
        self.complete = False
        # The upstream keeps the connection open after this response.
        self.keep_alive = False
        # Bytes arrived after the end of the response.
        self.extra_data = False
        # The parts of the body that were not taken yet, and their bytes.
        self.parts: list[bytes] = []
        self.size = 0
        self._head_only = head_only
        self._bytes_since_body = 0
        # All bytes up to the end of the final head, then the last bytes.
        self._seen = b""
        # Interim responses before the final one.
        self._interim = 0
        # Bytes behind the final head, and those of them that are body.
        self._bytes_after_head = 0
        self._body_bytes = 0
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    @property
    def content_length(self) -> int | None:
        """The length that the headers announce."""
        length = self.headers.get(b"content-length")
        return None if length is None else int(length)

    @property
    def ends_with_connection(self) -> bool:
        """Whether the end of the connection is the end of the body."""
        headers = self.headers
        return (
            self.in_body
            and b"content-length" not in headers
            and b"transfer-encoding" not in headers
        )

    def feed(self, data: bytes) -> None:
        """Parse more of the response.

        Raises:
            Unavailable: ``upstream-invalid``, for a malformed response.

        """
        if self._parser is None:
            return
        in_body = self.in_body
        self._bytes_since_body += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            detail = cause.detail if isinstance(cause, Unavailable) else ""
            raise Unavailable(Reason.UPSTREAM_INVALID, detail) from None
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self.complete:
                raise _invalid("the upstream's response is not HTTP") from None
            self.extra_data = True
        self._note_end(data, in_body=in_body)
        if not self.complete and self._bytes_since_body > MAX_BYTES_OUTSIDE_BODY:
            raise _invalid("the upstream's headers are too large")

    def _note_end(self, data: bytes, *, in_body: bool) -> None:
        """Find out whether `data` ends with the response; `in_body` says where it began."""
        if in_body:
            self._bytes_after_head += len(data)
            self._seen = (self._seen + data[-_TAIL_BYTES:])[-_TAIL_BYTES:]
        else:
            self._seen = seen = self._seen + data if self._seen else data
            if not self.in_body:
                return
            end = 0
            for _ in range(self._interim + 1):
                end = seen.find(_END_OF_HEAD, end) + len(_END_OF_HEAD)
            self._bytes_after_head = len(seen) - end
            self._seen = seen[-_TAIL_BYTES:]
        if self.complete:
            if b"transfer-encoding" in self.headers and not self._head_only:
                tail = self._seen
                exact = tail.endswith(_END_OF_HEAD) and tail[0] not in _END_OF_HEAD
            else:
                exact = self._bytes_after_head == self._body_bytes
            self.extra_data = self.extra_data or not exact

    def close(self) -> None:
        """Break the cycle with httptools' parser, so that no response waits for the collector."""
        self._parser = None

    # -- httptools callbacks

    def on_message_begin(self) -> None:
        if self.complete:
            self.extra_data = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.complete and not self.in_body:
            self.headers[name.lower()] = value.rstrip(b" \t")

    def on_headers_complete(self) -> None:
        if self.complete or self._parser is None:
            return
        status = self._parser.get_status_code()
        if not 100 <= status <= 599 or status == 101:
            raise _invalid(f"the upstream responded with status {status}")
        if self.headers.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
            raise _invalid("the upstream's response has a transfer coding other than chunked")
        self.status = status
        self.keep_alive = self._parser.should_keep_alive()
        self.in_body = status >= 200
        self.complete = self._head_only and self.in_body

    def on_body(self, body: bytes) -> None:
        if self.complete:
            self.extra_data = True
            return
        self.parts.append(body)
        self.size += len(body)
        self._body_bytes += len(body)
        self._bytes_since_body = 0

    def on_message_complete(self) -> None:
        if self.in_body:
            self.complete = True
        else:
            self.headers = {}  # those of an interim response
            self._interim += 1


def _invalid(detail: str) -> Unavailable:
    return Unavailable(Reason.UPSTREAM_INVALID, detail)
