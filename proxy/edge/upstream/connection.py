"""One connection to a scheduler, which carries one call after the other, read with httptools.

The upstream is trusted with what it answers, not with how: an answer that ends early, is malformed,
says more than it should, or stops coming ends its connection, and its caller gets a reason
(``upstream-closed``, ``-invalid``, ``-timeout``). A connection is used again only after a clean
answer to a request that it has read to the end.

Interim answers (RFC 9110 section 15.2) are skipped; an upgrade is refused. A body without a length
ends with the connection (RFC 9112 section 6.3). Answers up to `whole` bytes are handed over whole;
longer ones as a stream, for which the socket is read on only while the caller takes.

An answer in one piece whose head is known (`proxy.edge.upstream.response_head_cache`) needs no
parser, which is half of what an exchange costs beside its system calls. What only a parser needs is
therefore set up when one is made, not for each exchange.
"""

import asyncio
from typing import Protocol, cast

import httptools

from proxy.edge.upstream.body import ResponseBody
from proxy.edge.upstream.response_head_cache import ResponseHeadCache
from proxy.errors import Unavailable
from proxy.model import Reason, UpstreamResponse

# bytes an upstream may send without saying anything: headers, interim answers, chunk extensions
HEAD_LIMIT = 65_536
# bytes that are joined, and no more: a stream begins with a megabyte, of which no second copy is
# wanted
_PART = 65_536
# bytes of a stream that may wait for its reader before the socket is left alone
_BUFFERED = 131_072


class Pool(Protocol):
    """Whose connection it is: the leg."""

    loop: asyncio.AbstractEventLoop
    heads: ResponseHeadCache

    def finished(self, connection: "UpstreamConnection", reusable: bool) -> None:
        """The exchange on `connection` ended cleanly."""

    def gone(self, connection: "UpstreamConnection") -> None:
        """`connection` is closed, whoever closed it."""


class UpstreamConnection(asyncio.Protocol):
    """A connection, and the exchange that it carries now. Seconds: until the first byte, of silence
    within an answer, at rest.
    """

    def __init__(
        self, pool: Pool, first_byte_seconds: float, idle_seconds: float, keep_seconds: float
    ) -> None:
        self._pool = pool
        self._heads = pool.heads
        self._seconds = (first_byte_seconds, idle_seconds, keep_seconds)
        self._transport: asyncio.Transport
        self.closed = False
        self.kept = False  # it has carried a call before
        # a byte of the answer has arrived; of one that was known when it came nobody asks
        self.heard = False
        # from the request to the last of the answer, taken by its reader
        self._answer: asyncio.Future[UpstreamResponse] | None = None
        self._over = False  # nothing more of the answer will come
        # loop time after which the connection is given up; 0 until the next sweep sets it
        self._due = 0.0
        self._error: Unavailable | None = None
        self._head_only = False
        self._whole = 0
        self._parser: httptools.HttpResponseParser | None = None  # of an answer that has begun
        self._reset()

    def _reset(self) -> None:
        """Set up what belongs to the reading of one answer."""
        self._status = 0
        self._headers: dict[bytes, bytes] = {}
        self._in_body = False
        self._keep_alive = False
        self._complete = False
        self._surplus = False  # the upstream said more than its answer
        self._silent = 0  # bytes since the last that were part of a body
        self._parts: list[bytes] = []
        self._size = 0  # bytes in `_parts`
        self._streaming = False
        self._paused = False
        self._wake: asyncio.Future[None] | None = None

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none by inheritance
        self._transport = cast(asyncio.Transport, transport)
        self._write = self._transport.write
        self._unsent = self._transport.get_write_buffer_size

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None or self._over:
            self.abort(Reason.UPSTREAM_INVALID, "")  # out of turn: nobody asked
        elif self._parser is not None:
            self._read(self._parser, data)
        else:
            known = self._heads.get(len(data))
            if known is None or not data.startswith(known[0]) or self._head_only:
                self._reset()
                self._parser = httptools.HttpResponseParser(self)
                self._read(self._parser, data, first=True)
                return
            head, status, headers = known
            if not answer.done():  # its caller may have left
                answer.set_result(UpstreamResponse(status, headers, data[len(head) :]))
            self._rest(reusable=not self._unsent())  # an early answer leaves half a request behind

    def _read(
        self, parser: httptools.HttpResponseParser, data: bytes, *, first: bool = False
    ) -> None:
        """More of an answer, or the `first` of it."""
        self.heard = True
        self._due = 0.0
        self._silent += len(data)
        try:
            parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self.abort(
                Reason.UPSTREAM_INVALID, cause.detail if isinstance(cause, Unavailable) else ""
            )
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if self._complete:
                self._surplus = True
                self._finish()
            else:
                self.abort(Reason.UPSTREAM_INVALID, "the upstream's answer is not HTTP")
        else:
            if self._complete:
                if first and self._keep_alive and not self._surplus and not self._head_only:
                    self._heads.remember(data, self._status, self._headers, self._size)
                self._finish()
            elif self._silent > HEAD_LIMIT:
                self.abort(Reason.UPSTREAM_INVALID, "the upstream's headers are too large")
            elif self._in_body:
                self._pass_body_on()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._over:
            lengthless = (
                b"content-length" not in self._headers and b"transfer-encoding" not in self._headers
            )
            if self._parser is not None and self._in_body and lengthless and exc is None:
                self._finish()
            else:
                self._fail(Unavailable(Reason.UPSTREAM_CLOSED, sent=True))
        self.closed = True
        # it holds on to this: with what was gathered of an answer, it would wait for the garbage
        # collector
        self._parser = None
        self._pool.gone(self)

    # -- httptools callbacks

    def on_message_begin(self) -> None:
        if self._complete:
            self._surplus = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._complete and not self._in_body:
            self._headers[name.lower()] = value.rstrip(b" \t")

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        assert self._parser is not None
        status = self._parser.get_status_code()
        if not 100 <= status <= 599 or status == 101:
            raise Unavailable(
                Reason.UPSTREAM_INVALID, f"the upstream answered with status {status}"
            )
        if self._headers.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
            raise Unavailable(
                Reason.UPSTREAM_INVALID,
                "the upstream's answer has a transfer coding other than chunked",
            )
        self._status = status
        self._keep_alive = self._parser.should_keep_alive()
        self._in_body = status >= 200
        self._complete = self._head_only and self._in_body

    def on_body(self, body: bytes) -> None:
        if self._complete:
            self._surplus = True
            return
        self._parts.append(body)
        self._size += len(body)
        self._silent = 0

    def on_message_complete(self) -> None:
        if self._in_body:
            self._complete = True
        else:
            self._headers = {}  # those of an interim answer

    # -- one exchange

    def ask(
        self, request: bytes, body: bytes, whole: int, head_only: bool
    ) -> asyncio.Future[UpstreamResponse]:
        """Send a request, in two parts if it is long; its answer to come, whole or as a stream, or
        `Unavailable`.

        Whoever stops waiting for it says so (`give_up`).
        """
        if self.closed:
            raise Unavailable(Reason.UPSTREAM_CLOSED)  # between its turn and now; nothing was sent
        self._answer = answer = self._pool.loop.create_future()
        self._whole = whole
        self._head_only = head_only
        self._due = 0.0
        if body:
            self._transport.writelines((request, body))  # two writes would be two system calls
        else:
            self._write(request)
        return answer

    def give_up(self, answer: asyncio.Future[UpstreamResponse]) -> None:
        """The caller who waited for `answer` has left. Once that exchange is over, the connection
        serves others.
        """
        if self._answer is answer:
            self.abort(Reason.CLIENT_GONE, "")

    def abort(self, reason: Reason, detail: str) -> None:
        """Give the connection up, and whoever waits for it the reason."""
        if self._answer is not None and not self._over:
            self._fail(Unavailable(reason, detail, sent=True))
        self.drop()

    def drop(self) -> None:
        """Cut the connection; it counts no longer."""
        if not self.closed:
            self.closed = True
            self._transport.abort()
            self._pool.gone(self)

    def _pass_body_on(self) -> None:
        """More of a body has arrived: it becomes a stream, or its reader is told, or the socket
        left alone.
        """
        if not self._streaming and self._size > self._whole:
            self._start_stream()
        if self._streaming:
            if self._size > _BUFFERED and not self._paused:
                self._paused = True
                self._transport.pause_reading()
            self._notify()

    def _start_stream(self) -> None:
        self._streaming = True
        length = self._headers.get(b"content-length")
        self._resolve(b"", ResponseBody(self), None if length is None else int(length))

    def _finish(self) -> None:
        """The answer is here, all of it."""
        clean = self._keep_alive and not self._surplus and not self._head_only and not self.closed
        reusable = clean and not self._unsent()  # as in `data_received`
        if self._streaming:
            self._over = True
            self._keep_alive = reusable  # not given back before the reader has taken the last part
            self._notify()
            return
        length = self._headers.get(b"content-length") if self._head_only else None
        self._resolve(b"".join(self._parts), None, None if length is None else int(length))
        self._parts = []
        self._rest(reusable=reusable)

    def _rest(self, *, reusable: bool) -> None:
        """The exchange is over, and the connection for others to use."""
        self._answer = self._parser = None
        self._over = self.heard = False
        self.kept = True
        self._due = 0.0
        self._pool.finished(self, reusable)

    def _resolve(self, body: bytes, stream: ResponseBody | None, length: int | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(
                UpstreamResponse(self._status, self._headers, body, stream, length)
            )

    def _fail(self, error: Unavailable) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)
        else:
            self._error = error
            self._notify()

    # -- the stream

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def next_part(self) -> bytes:
        """What has arrived of a streamed body since the last call; raises `StopAsyncIteration` at
        its end.
        """
        while not self._parts:
            if self._error is not None:
                try:
                    raise self._error
                finally:
                    self._error = None  # its traceback leads back here
            if self._over:
                self._rest(reusable=self._keep_alive)
                raise StopAsyncIteration
            self._wake = self._pool.loop.create_future()
            await self._wake
        count, size = 1, len(self._parts[0])
        while size < _PART and count < len(self._parts):
            size += len(self._parts[count])
            count += 1
        part = self._parts[0] if count == 1 else b"".join(self._parts[:count])
        del self._parts[:count]
        self._size -= size
        if self._paused and not self._parts and not self.closed:
            self._paused = False
            self._due = 0.0
            self._transport.resume_reading()
        return part

    def overdue(self, now: float) -> bool:
        """Whether the exchange, or the rest, has taken too long; `now` is the time of a sweep.

        Time counts from the first sweep after something has happened: nothing is given up early,
        and no call pays for a look at the clock. A reader who does not take is not the upstream's
        fault.
        """
        if self._due == 0.0:
            first_byte, idle, keep = self._seconds
            self._due = now + (keep if self._answer is None else idle if self.heard else first_byte)
        return now > self._due and not self._paused and not self._over
