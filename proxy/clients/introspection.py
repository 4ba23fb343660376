"""What an XML-RPC server says of itself: its methods, their signatures and their help texts.

``system.listMethods``, ``system.methodSignature`` and ``system.methodHelp`` are conventions, not a
standard: a server may have some of them, and its answers are texts of its own. Every answer is read
by the strict grammar of `proxy.protocol.xmlrpc.codec`, and bounded in size, number and time. What
is not of the expected form counts as not said.
"""

import asyncio
import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from proxy.edge.https_fetch import describe_error
from proxy.edge.tls import upstream_context
from proxy.errors import Rejected
from proxy.model import Value
from proxy.protocol.xmlrpc.codec import Fault, decode_response, encode_call, is_method_name

MAX_METHODS = 5000
"""Methods that are asked about; a server that lists more is refused."""
MAX_BYTES = 4 << 20  # of one answer
MAX_ELEMENTS = 100_000  # of one answer's document
MAX_HELP = 4000  # characters that are read of one help text
MAX_SIGNATURES = 16
MAX_TYPES = 33  # of one signature: that of the answer, and of 32 arguments
CALL_SECONDS = 15.0
TOTAL_SECONDS = 300.0

_GATE_ANSWERS = frozenset(
    ("system.listMethods", "system.methodHelp", "system.methodSignature", "system.multicall")
)
_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9._:-]{0,39}")


class IntrospectionError(Exception):
    """The server gave no list of methods. The text is safe to print."""


class UnreadableAnswerError(IntrospectionError):
    """The server answered, but not as an XML-RPC server does."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is, and the credential for it.

    `origin` is ``http://host:port`` or ``https://host:port``, or empty with `socket`, the path of a
    Unix socket. `basic_auth` is ``user:password``, or empty.
    """

    origin: str
    path: str
    socket: str = ""
    basic_auth: str = ""
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class MethodDescription:
    """One method: its signatures, each the type of the answer and those of arguments, and help."""

    name: str
    signatures: tuple[tuple[str, ...], ...] = ()
    help: str = ""


@dataclass(frozen=True, slots=True)
class MethodNames:
    """The names that a server lists, sorted, and those that are none of XML-RPC's, in `odd`."""

    names: tuple[str, ...]
    odd: tuple[str, ...] = ()


def sort_names(listed: Sequence[object]) -> MethodNames:
    """Sort names, each once. Callgate's own ``system.`` methods are left out.

    Raises:
        IntrospectionError: there are more than `MAX_METHODS`.

    """
    texts = {name for name in listed if isinstance(name, str)} - _GATE_ANSWERS
    if len(texts) > MAX_METHODS:
        raise IntrospectionError(
            f"there are {len(texts)} methods, at most {MAX_METHODS} are read."
            " Write the names to use into a file, and pass it with --names."
        )
    # A page of supervisord has no name on the wire of XML-RPC.
    good = {name for name in texts if is_method_name(name) and not name.startswith("page.")}
    return MethodNames(tuple(sorted(good)), tuple(sorted(texts - good)))


async def list_methods(server: Server) -> MethodNames:
    """Return the methods that `server` lists. Raises `IntrospectionError`."""
    async with _session(server) as session:
        return await _list(_Caller(server, session))


async def describe_methods(server: Server) -> tuple[MethodNames, list[MethodDescription]]:
    """Return the methods that `server` lists, and what it says of each.

    Raises `IntrospectionError`. A method whose signature or help it does not give is described
    without.
    """
    try:
        async with asyncio.timeout(TOTAL_SECONDS), _session(server) as session:
            caller = _Caller(server, session)
            listed = await _list(caller)
            return listed, [await _describe(caller, name) for name in listed.names]
    except TimeoutError:
        raise IntrospectionError(
            f"the server did not describe its methods within {TOTAL_SECONDS:g} seconds."
            " Pass a file of names with --names."
        ) from None


async def _list(caller: "_Caller") -> MethodNames:
    answer = await caller.call("system.listMethods")
    if isinstance(answer, Fault):
        raise IntrospectionError(
            f"the server answered fault {answer.code} to system.listMethods."
            " Pass a file of names with --names."
        )
    if not isinstance(answer, list):
        raise IntrospectionError("the server's answer to system.listMethods is no list of names.")
    return sort_names(answer)


async def _describe(caller: "_Caller", name: str) -> MethodDescription:
    signatures = read_signatures(await caller.call_if_readable("system.methodSignature", name))
    help_text = await caller.call_if_readable("system.methodHelp", name)
    text = help_text[:MAX_HELP] if isinstance(help_text, str) else ""
    return MethodDescription(name, signatures, text)


def read_signatures(answer: Value | Fault) -> tuple[tuple[str, ...], ...]:
    """Return the signatures in an answer; none if it is of another form, or one of them is.

    supervisord answers with the types of its one signature, others with a list of such lists. A
    server without signatures answers with a text.
    """
    if not isinstance(answer, list) or not answer:
        return ()
    if all(isinstance(each, str) for each in answer):
        answer = [answer]
    if len(answer) > MAX_SIGNATURES:
        return ()
    signatures: list[tuple[str, ...]] = []
    for types in answer:
        if not isinstance(types, list) or not 0 < len(types) <= MAX_TYPES:
            return ()
        names = [each for each in types if isinstance(each, str) and _TYPE.fullmatch(each)]
        if len(names) != len(types):
            return ()
        signatures.append(tuple(names))
    return tuple(dict.fromkeys(signatures))


def _session(server: Server) -> aiohttp.ClientSession:
    """Return a session. A connection a call: a server with one thread may serve one at a time."""
    connector: aiohttp.BaseConnector = (
        aiohttp.UnixConnector(server.socket, force_close=True)
        if server.socket
        else aiohttp.TCPConnector(force_close=True)
    )
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=CALL_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
    )


class _Caller:
    """Calls of one server."""

    def __init__(self, server: Server, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._url = ("http://localhost" if server.socket else server.origin) + server.path
        self._tls = upstream_context(server.ca_file) if self._url.startswith("https:") else True
        self._headers = {"Content-Type": "text/xml", "Accept-Encoding": "identity"}
        if server.basic_auth:
            encoded = base64.b64encode(server.basic_auth.encode()).decode("ascii")
            self._headers["Authorization"] = f"Basic {encoded}"

    async def call_if_readable(self, method: str, *arguments: str) -> Value | Fault:
        """As `call`, with None for an answer that is no XML-RPC."""
        try:
            return await self.call(method, *arguments)
        except UnreadableAnswerError:
            return None

    async def call(self, method: str, *arguments: str) -> Value | Fault:
        """Return the answer to one call. Raises `IntrospectionError` when there is none."""
        body = encode_call(method, list(arguments))
        try:
            async with self._session.post(
                self._url, data=body, headers=self._headers, ssl=self._tls, allow_redirects=False
            ) as answer:
                document = await self._read(answer)
        except TimeoutError:
            raise IntrospectionError(
                f"the server did not answer {method} within {CALL_SECONDS:g} seconds."
            ) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            text = describe_error(error)
            raise IntrospectionError(f"the server cannot be reached: {text}.") from None
        try:
            return decode_response(document, max_elements=MAX_ELEMENTS)
        except Rejected as error:
            raise UnreadableAnswerError(
                f"the server's answer to {method} is not XML-RPC: {error.detail}."
            ) from None

    @staticmethod
    async def _read(answer: aiohttp.ClientResponse) -> bytes:
        if answer.status in (401, 403):
            raise IntrospectionError(
                f"the server requires a credential (status {answer.status})."
                " Pass a file with user:password with --basic-auth-file."
            )
        if answer.status != 200:
            raise UnreadableAnswerError(
                f"the server answered status {answer.status}. Check the URL and its path."
            )
        document = bytearray()
        async for part in answer.content.iter_chunked(65_536):
            document += part
            if len(document) > MAX_BYTES:
                raise UnreadableAnswerError(f"an answer of the server is over {MAX_BYTES} bytes.")
        return bytes(document)
