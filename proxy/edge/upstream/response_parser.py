"""Parses one response of an upstream with httptools.

The content of a response is trusted, its framing is not. Interim responses (RFC 9110 section 15.2)
are skipped. An upgrade, a transfer coding other than chunked, a status outside 100 to 599 and more
than `MAX_BYTES_OUTSIDE_BODY` bytes without a byte of body are rejected. A body without a length
ends with the connection (RFC 9112 section 6.3, rule 8).
"""

import httptools

from proxy.errors import Unavailable
from proxy.model import Reason

# Bytes that may arrive without a byte of body: headers, interim responses, chunk extensions.
MAX_BYTES_OUTSIDE_BODY = 65_536


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
        if not self.complete and self._bytes_since_body > MAX_BYTES_OUTSIDE_BODY:
            raise _invalid("the upstream's headers are too large")

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
        self._bytes_since_body = 0

    def on_message_complete(self) -> None:
        if self.in_body:
            self.complete = True
        else:
            self.headers = {}  # those of an interim response


def _invalid(detail: str) -> Unavailable:
    return Unavailable(Reason.UPSTREAM_INVALID, detail)
