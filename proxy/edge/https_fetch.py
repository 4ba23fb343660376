"""One HTTPS GET for an issuer's discovery document or keys.

Refuses whatever could redirect the request or exhaust memory: other schemes, redirects, cookies,
proxies from the environment, compressed responses, responses over 1 MiB or slower than 10 seconds.
Trusts the CA file it is given, or the system's CAs.
"""

import os
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp

from proxy.edge.tls import upstream_context

# Bytes of a response; the key sets of large issuers are around 20 KiB.
MAX_BYTES = 1 << 20
# Seconds from the connection to the last byte.
TIMEOUT_SECONDS = 10.0
_CHUNK_BYTES = 65_536


def make_fetcher(
    ca_file: Path | None = None, *, timeout_seconds: float = TIMEOUT_SECONDS
) -> Callable[[str], Awaitable[bytes]]:
    """Return a function that fetches one URL.

    The function raises `OSError` on any failure, with a text that is safe to log.

    Raises:
        ConfigError: `ca_file` has no CA certificate.

    """
    context = upstream_context(ca_file)

    async def fetch(url: str) -> bytes:
        if not url.startswith("https://"):
            raise OSError("only https URLs are fetched")
        timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        # One session a fetch: they are minutes apart, and no state may pass from one to the next.
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
                ) as response,
            ):
                return await _read(response)
        except TimeoutError as error:
            raise OSError(f"no complete response within {timeout_seconds:g} seconds") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise OSError(describe_error(error)) from error

    return fetch


async def _read(response: aiohttp.ClientResponse) -> bytes:
    if response.status != 200:
        raise OSError(f"the response has status {response.status}, not 200")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise OSError("the response is compressed, which was not requested")
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if len(body) > MAX_BYTES:
            raise OSError(f"the response is over {MAX_BYTES} bytes")
    return bytes(body)


def describe_error(error: Exception) -> str:
    """Describe a failure in a few words, without the URL's path or content from the server."""
    match error:
        case TimeoutError():
            return "no response in time"
        case aiohttp.ClientConnectorCertificateError():
            return "the server's certificate does not verify"
        case aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            return "the TLS handshake failed"
        case aiohttp.ClientConnectorDNSError():
            return "the host name does not resolve"
        case aiohttp.ClientConnectorError():
            return f"no connection ({_system(error.os_error)})"
        case aiohttp.ServerDisconnectedError():
            return "the server closed the connection without a response"
        case OSError():
            return _system(error)
        case _:
            return f"the exchange failed ({type(error).__name__})"


def _system(error: OSError) -> str:
    """Return the operating system's message, which asyncio replaces by one with the address."""
    return (
        os.strerror(error.errno)
        if error.errno and error.errno > 0
        else "the address does not answer"
    )
