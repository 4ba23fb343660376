"""One GET to an issuer, over real TLS."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from proxy.cli.demo.certificate import SelfSigned, make_self_signed
from proxy.edge.https_fetch import MAX_BYTES, make_fetcher
from proxy.edge.tls import server_context
from proxy.errors import ConfigError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
def made(tmp_path: Path) -> SelfSigned:
    """Return the certificate of the issuer under test."""
    return make_self_signed(("localhost", "127.0.0.1"), tmp_path, now=time.time())


@asynccontextmanager
async def issuer(made: SelfSigned, handler: Handler) -> AsyncIterator[str]:
    """Serve `handler` over TLS on a free port; yield the URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(
        runner, "127.0.0.1", 0, ssl_context=server_context(made.certificate, made.key)
    )
    await site.start()
    try:
        yield f"https://localhost:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_the_body_is_returned(made: SelfSigned) -> None:
    """The body of a 200 comes back unchanged."""

    async def keys(_request: web.Request) -> web.Response:
        return web.json_response({"keys": []})

    async with issuer(made, keys) as url:
        assert await make_fetcher(made.ca)(f"{url}/jwks") == b'{"keys": []}'


async def test_no_state_is_sent(made: SelfSigned) -> None:
    """Requests carry no cookies and no credentials, and ask for no compression."""
    seen: list[dict[str, str]] = []

    async def keys(request: web.Request) -> web.Response:
        seen.append({name.lower(): value for name, value in request.headers.items()})
        response = web.json_response({})
        response.set_cookie("session", "1")
        return response

    async with issuer(made, keys) as url:
        fetch = make_fetcher(made.ca)
        await fetch(f"{url}/a")
        await fetch(f"{url}/b")
    assert seen[1]["accept-encoding"] == "identity"
    assert not {"cookie", "authorization"} & seen[1].keys()


async def test_proxies_of_the_environment_are_not_used(
    made: SelfSigned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment variable must not route key sets through a third party."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")

    async def keys(_request: web.Request) -> web.Response:
        return web.json_response({})

    async with issuer(made, keys) as url:
        assert await make_fetcher(made.ca)(url) == b"{}"


async def test_plain_http_is_not_fetched() -> None:
    """Keys fetched over plain HTTP prove nothing; no connection is made."""
    with pytest.raises(OSError, match="only https"):
        await make_fetcher()("http://127.0.0.1:1/jwks")


async def test_redirects_are_not_followed(made: SelfSigned) -> None:
    """A redirect must not choose where keys come from."""
    asked: list[str] = []

    async def redirect(request: web.Request) -> web.Response:
        asked.append(request.path)
        raise web.HTTPFound("/elsewhere")

    async with issuer(made, redirect) as url:
        with pytest.raises(OSError, match="status 302"):
            await make_fetcher(made.ca)(f"{url}/jwks")
    assert asked == ["/jwks"]


@pytest.mark.parametrize("status", [204, 206, 401, 404, 500])
async def test_only_200_is_accepted(made: SelfSigned, status: int) -> None:
    """An error page must not be taken for a key set."""

    async def fail(_request: web.Request) -> web.Response:
        return web.Response(status=status, body=b"{}" if status != 204 else None)

    async with issuer(made, fail) as url:
        with pytest.raises(OSError, match=f"status {status}"):
            await make_fetcher(made.ca)(url)


@pytest.mark.parametrize(("size", "good"), [(MAX_BYTES, True), (MAX_BYTES + 1, False)])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_response_has_a_size_limit(
    made: SelfSigned, size: int, good: bool, chunked: bool
) -> None:
    """One byte over 1 MiB is refused, with or without a Content-Length."""

    async def large(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if not chunked:
            response.content_length = size
        await response.prepare(request)
        await response.write(b"x" * size)
        return response

    async with issuer(made, large) as url:
        if good:
            assert len(await make_fetcher(made.ca)(url)) == size
        else:
            with pytest.raises(OSError, match="over"):
                await make_fetcher(made.ca)(url)


async def test_a_compressed_response_is_refused(made: SelfSigned) -> None:
    """A decompression bomb is not inflated."""

    async def bomb(_request: web.Request) -> web.Response:
        response = web.Response(body=b" " * 100_000)
        response.enable_compression(web.ContentCoding.gzip)
        response.headers["Content-Encoding"] = "gzip"
        return response

    async with issuer(made, bomb) as url:
        with pytest.raises(OSError, match="compressed"):
            await make_fetcher(made.ca)(url)


async def test_a_slow_response_times_out(made: SelfSigned) -> None:
    """The timeout covers the complete response: a trickling issuer cannot block a refresh."""

    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.05)

    async with issuer(made, trickle) as url:
        with pytest.raises(OSError, match="no complete response"):
            await make_fetcher(made.ca, timeout_seconds=0.3)(url)


async def test_a_certificate_that_does_not_verify_is_refused(made: SelfSigned) -> None:
    """A private issuer needs its CA file; the error names the certificate."""

    async def keys(_request: web.Request) -> web.Response:
        return web.json_response({})

    async with issuer(made, keys) as url:
        with pytest.raises(OSError, match="certificate"):
            await make_fetcher()(url)


async def test_an_unreachable_issuer_is_an_oserror() -> None:
    """Connection errors are the one class of error that a key source handles."""
    with pytest.raises(OSError, match="no connection"):
        await make_fetcher()("https://127.0.0.1:1/secret-path")


async def test_a_truncated_response_is_refused(made: SelfSigned) -> None:
    """A truncated key set is not used."""

    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 100
        await response.prepare(request)
        await response.write(b"{")
        assert request.transport is not None
        request.transport.close()
        return response

    async with issuer(made, cut) as url:
        with pytest.raises(OSError, match="failed"):
            await make_fetcher(made.ca)(url)


def test_a_bad_ca_file_is_found_before_anything_is_fetched(tmp_path: Path) -> None:
    """A bad CA file is a configuration error, reported at start-up."""
    (tmp_path / "ca.pem").write_text("not PEM")
    with pytest.raises(ConfigError):
        make_fetcher(tmp_path / "ca.pem")
    assert ssl.create_default_context().verify_mode is ssl.CERT_REQUIRED
