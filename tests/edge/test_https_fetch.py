import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from proxy.cli.demo.certificate import SelfSigned, make_self_signed
from proxy.edge import https_fetch as fetch_module
from proxy.edge.https_fetch import MAX_BYTES, fetch_with
from proxy.edge.tls import server_context
from proxy.errors import ConfigError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
def made(tmp_path: Path) -> SelfSigned:
    """Make the certificate of the issuer under test."""
    return make_self_signed(("localhost", "127.0.0.1"), tmp_path, now=time.time())


@asynccontextmanager
async def issuer(made: SelfSigned, handler: Handler) -> AsyncIterator[str]:
    """Serve `handler` over TLS on a port of its own; gives the URL."""
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


async def test_it_gives_the_body(made: SelfSigned) -> None:
    """What an issuer answers with 200 comes back as it is."""

    async def keys(_request: web.Request) -> web.Response:
        return web.json_response({"keys": []})

    async with issuer(made, keys) as url:
        assert await fetch_with(made.ca)(f"{url}/jwks") == b'{"keys": []}'


async def test_it_asks_with_nothing_but_the_question(made: SelfSigned) -> None:
    """No cookies, no credentials, no compression, and never the proxies that the environment names."""
    seen: list[dict[str, str]] = []

    async def keys(request: web.Request) -> web.Response:
        seen.append({name.lower(): value for name, value in request.headers.items()})
        answer = web.json_response({})
        answer.set_cookie("session", "1")
        return answer

    async with issuer(made, keys) as url:
        fetch = fetch_with(made.ca)
        await fetch(f"{url}/a")
        await fetch(f"{url}/b")
    assert seen[1]["accept-encoding"] == "identity"
    assert not {"cookie", "authorization"} & seen[1].keys()


async def test_proxies_of_the_environment_are_not_used(
    made: SelfSigned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable of the environment must not route key sets through somebody else."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")

    async def keys(_request: web.Request) -> web.Response:
        return web.json_response({})

    async with issuer(made, keys) as url:
        assert await fetch_with(made.ca)(url) == b"{}"


async def test_plain_http_is_not_fetched() -> None:
    """Keys from plain HTTP would be anybody's keys; no connection is made."""
    with pytest.raises(OSError, match="only https"):
        await fetch_with()("http://127.0.0.1:1/jwks")


async def test_redirects_are_not_followed(made: SelfSigned) -> None:
    """Whoever can make an issuer redirect must not choose where the gate gets its keys."""
    asked: list[str] = []

    async def redirect(request: web.Request) -> web.Response:
        asked.append(request.path)
        raise web.HTTPFound("/elsewhere")

    async with issuer(made, redirect) as url:
        with pytest.raises(OSError, match="status 302"):
            await fetch_with(made.ca)(f"{url}/jwks")
    assert asked == ["/jwks"]


@pytest.mark.parametrize("status", [204, 206, 401, 404, 500])
async def test_only_200_counts(made: SelfSigned, status: int) -> None:
    """An error page must not be taken for a key set."""

    async def fail(_request: web.Request) -> web.Response:
        return web.Response(status=status, body=b"{}" if status != 204 else None)

    async with issuer(made, fail) as url:
        with pytest.raises(OSError, match=f"status {status}"):
            await fetch_with(made.ca)(url)


@pytest.mark.parametrize(("size", "good"), [(MAX_BYTES, True), (MAX_BYTES + 1, False)])
@pytest.mark.parametrize("chunked", [False, True])
async def test_an_answer_has_a_limit(
    made: SelfSigned, size: int, good: bool, chunked: bool
) -> None:
    """One byte over 1 MiB is refused, announced or not."""

    async def large(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        if not chunked:
            answer.content_length = size
        await answer.prepare(request)
        await answer.write(b"x" * size)
        return answer

    async with issuer(made, large) as url:
        if good:
            assert len(await fetch_with(made.ca)(url)) == size
        else:
            with pytest.raises(OSError, match="over"):
                await fetch_with(made.ca)(url)


async def test_a_compressed_answer_is_refused(made: SelfSigned) -> None:
    """A small body that inflates to a large one is not inflated at all."""

    async def bomb(_request: web.Request) -> web.Response:
        answer = web.Response(body=b" " * 100_000)
        answer.enable_compression(web.ContentCoding.gzip)
        answer.headers["Content-Encoding"] = "gzip"
        return answer

    async with issuer(made, bomb) as url:
        with pytest.raises(OSError, match="compressed"):
            await fetch_with(made.ca)(url)


async def test_a_slow_answer_is_given_up(made: SelfSigned, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is for the whole answer: an issuer that trickles does not hold a refresh for ever."""
    monkeypatch.setattr(fetch_module, "TIMEOUT_SECONDS", 0.3)

    async def trickle(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b" ")
            await asyncio.sleep(0.05)

    async with issuer(made, trickle) as url:
        with pytest.raises(OSError, match="no whole answer"):
            await fetch_with(made.ca)(url)


async def test_a_certificate_that_does_not_verify_is_refused(made: SelfSigned) -> None:
    """Without its CA file a private issuer is nobody; the text says so."""

    async def keys(_request: web.Request) -> web.Response:
        return web.json_response({})

    async with issuer(made, keys) as url:
        with pytest.raises(OSError, match="certificate"):
            await fetch_with()(url)


async def test_an_issuer_that_is_down_is_an_oserror() -> None:
    """Whatever goes wrong on the way is the one kind of error that the key source expects."""
    with pytest.raises(OSError, match="no connection"):
        await fetch_with()("https://127.0.0.1:1/secret-path")


async def test_an_answer_cut_short_is_refused(made: SelfSigned) -> None:
    """Half a key set is none."""

    async def cut(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        answer.content_length = 100
        await answer.prepare(request)
        await answer.write(b"{")
        assert request.transport is not None
        request.transport.close()
        return answer

    async with issuer(made, cut) as url:
        with pytest.raises(OSError, match="failed"):
            await fetch_with(made.ca)(url)


def test_a_bad_ca_file_is_found_before_anything_is_fetched(tmp_path: Path) -> None:
    """It is a mistake in the settings, and reported as one."""
    (tmp_path / "ca.pem").write_text("not PEM")
    with pytest.raises(ConfigError):
        fetch_with(tmp_path / "ca.pem")
    assert ssl.create_default_context().verify_mode is ssl.CERT_REQUIRED
