"""How the gate asks an issuer for its discovery document and keys: HTTPS, one small answer, nothing
else.

Refuses what could lead the gate elsewhere or fill its memory: other schemes, redirects, cookies,
proxies named by the environment, compressed answers, answers over 1 MiB or slower than 10 seconds.
Trusts the CA file it is given, or the system's CAs.
"""

import os
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp

from proxy.edge.tls import upstream_context

MAX_BYTES = 1 << 20  # the key sets of large issuers are around 20 KiB
TIMEOUT_SECONDS = 10.0
CHUNK = 65536


def fetch_with(ca_file: Path | None = None) -> Callable[[str], Awaitable[bytes]]:
    """Make the function that fetches one URL for an issuer; raises `ConfigError` when `ca_file`
    holds no CA certificate.

    The function raises `OSError` on any failure, with a text that is safe to log.
    """
    context = upstream_context(ca_file)

    async def fetch(url: str) -> bytes:
        if not url.startswith("https://"):
            raise OSError("only https URLs are fetched")
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        # A session for each fetch: they are minutes apart, and nothing of one may reach the next.
        try:
            async with (
                aiohttp.ClientSession(
                    timeout=timeout,
                    cookie_jar=aiohttp.DummyCookieJar(),
                    trust_env=False,
                    auto_decompress=False,
                ) as session,
                session.get(
                    url,
                    ssl=context,
                    allow_redirects=False,
                    headers={"Accept": "application/json", "Accept-Encoding": "identity"},
                ) as answer,
            ):
                return await _read(answer)
        except TimeoutError as error:
            raise OSError(f"no whole answer within {TIMEOUT_SECONDS:g} seconds") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise OSError(explain(error)) from error

    return fetch


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    if answer.status != 200:
        raise OSError(f"the answer has status {answer.status}, not 200")
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise OSError("the answer is compressed, though that was not asked for")
    body = bytearray()
    async for chunk in answer.content.iter_chunked(CHUNK):
        body += chunk
        if len(body) > MAX_BYTES:
            raise OSError(f"the answer is over {MAX_BYTES} bytes")
    return bytes(body)


def explain(error: Exception) -> str:
    """Say what failed in a few words, without the URL's path or what the server sent."""
    match error:
        case TimeoutError():
            return "no answer in time"
        case aiohttp.ClientConnectorCertificateError():
            return "the server's certificate does not verify"
        case aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            return "the TLS handshake failed"
        case aiohttp.ClientConnectorDNSError():
            return "the host name does not resolve"
        case aiohttp.ClientConnectorError():
            return f"no connection ({_system(error.os_error)})"
        case aiohttp.ServerDisconnectedError():
            return "the server closed the connection without an answer"
        case OSError():
            return _system(error)
        case _:
            return f"the exchange failed ({type(error).__name__})"


def _system(error: OSError) -> str:
    """The operating system's own words: asyncio puts the address in their place."""
    return (
        os.strerror(error.errno)
        if error.errno and error.errno > 0
        else "the address does not answer"
    )
