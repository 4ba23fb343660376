import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from proxy.cli.demo.certificate import make_self_signed
from proxy.common.toml_lines import Loc
from proxy.common.validation import dotted
from proxy.config.loading import Issuer, Secret, Upstream
from proxy.edge.tls import server_context
from proxy.errors import Problem
from proxy.protocol.xmlrpc.codec import encode_fault, encode_response
from proxy.runtime.connectivity import check_connectivity

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(
    handler: Handler, *, socket: Path | None = None, certificates: Path | None = None
) -> AsyncIterator[str]:
    """Serve `handler` for every path, on a port or a Unix socket; gives the URL as the settings
    would have it.
    """
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    context = (
        server_context(certificates / "tls.crt", certificates / "tls.key") if certificates else None
    )
    site = (
        web.UnixSite(runner, socket)
        if socket
        else web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    )
    await site.start()
    try:
        yield (
            f"unix:{socket}"
            if socket
            else f"{'https' if context else 'http'}://localhost:{runner.addresses[0][1]}"
        )
    finally:
        await runner.cleanup()


def locate(loc: Loc) -> str:
    """Return where a key is."""
    return f"callgate.toml: {dotted(loc)}"


async def problems_of(url: str, protocol: str = "luigi", **more: object) -> list[Problem]:
    """Ask one upstream."""
    path = "/RPC2" if protocol == "xmlrpc" else ""
    members: dict[str, Any] = {
        "name": "u",
        "protocol": protocol,
        "url": url,
        "upstream_path": path,
        "catalog": "c",
        **more,
    }
    upstream = Upstream.model_construct(**members)
    return await check_connectivity(locate, [], [upstream])


async def test_a_luigid_that_answers_is_no_problem() -> None:
    """It is asked one question that changes nothing, in the form that luigid reads."""
    asked: list[tuple[str, str, str]] = []

    async def luigid(request: web.Request) -> web.Response:
        asked.append((request.method, request.path, (await request.post())["data"]))  # type: ignore[arg-type]  # no file is sent
        return web.json_response({"response": {"enabled": True}})

    async with serving(luigid) as url:
        assert await problems_of(url) == []
    assert asked == [("POST", "/api/is_pause_enabled", "{}")]


async def test_an_xmlrpc_server_on_a_socket_is_no_problem(tmp_path: Path) -> None:
    """A server without introspection answers with a fault, and that is XML-RPC too."""
    answers = iter([encode_response(["system.listMethods"]), encode_fault(1, "unknown method")])

    async def server(request: web.Request) -> web.Response:
        assert b"system.listMethods" in await request.read()
        return web.Response(body=next(answers), content_type="text/xml")

    async with serving(server, socket=tmp_path / "s.sock") as url:
        assert await problems_of(url, "xmlrpc") == []
        assert await problems_of(url, "xmlrpc") == []


@pytest.mark.parametrize(("protocol", "due"), [("luigi", "JSON"), ("xmlrpc", "XML")])
@pytest.mark.parametrize(
    ("kind", "body"),
    [("text/html", "<p>sign in</p>"), ("text/plain", "\n<!DOCTYPE html><html></html>")],
)
@pytest.mark.parametrize("status", [200, 502])
async def test_html_is_named_as_such(
    protocol: str, due: str, kind: str, body: str, status: int
) -> None:
    """A login page or a load balancer in the scheduler's place is the usual mistake, and is told
    apart from a broken one.
    """

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text=body, content_type=kind, status=status)

    async with serving(page) as url:
        (problem,) = await problems_of(url, protocol)
    assert f"answers HTML, expected {due} (status {status})" in problem.message
    assert problem.location == "callgate.toml: upstreams[0].url"


@pytest.mark.parametrize("protocol", ["luigi", "xmlrpc"])
@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"pong", b"<methodResponse/>", b"\xff"])
async def test_an_answer_in_another_protocol_is_a_problem(protocol: str, body: bytes) -> None:
    """A port that answers is not enough."""

    async def other(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/octet-stream")

    async with serving(other) as url:
        (problem,) = await problems_of(url, protocol)
    assert "does not answer like a" in problem.message


async def test_an_upstream_with_a_password_of_its_own() -> None:
    """Without the password the remedy names the setting; with it the question is asked with it."""

    async def guarded(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != "Basic dTpw":
            raise web.HTTPUnauthorized
        return web.Response(body=encode_response([]), content_type="text/xml")

    async with serving(guarded) as url:
        (problem,) = await problems_of(url, "xmlrpc")
        assert "basic_auth" in problem.hint
        assert await problems_of(url, "xmlrpc", basic_auth=Secret("u:p", "the test")) == []


async def test_a_redirect_is_not_followed() -> None:
    """The gate would not follow it either."""

    async def away(request: web.Request) -> web.Response:
        assert request.path == "/api/is_pause_enabled"
        raise web.HTTPFound("/login")

    async with serving(away) as url:
        (problem,) = await problems_of(url)
    assert "status 302" in problem.message


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "unix:/nonexistent/socket", "https://127.0.0.1:1"]
)
async def test_an_upstream_that_is_down_is_a_problem(url: str) -> None:
    """Whatever the kind of URL, one line says that nobody is there."""
    (problem,) = await problems_of(url)
    assert "cannot be reached" in problem.message


async def test_an_upstream_without_tls_at_an_https_url_is_told_as_that() -> None:
    """A failed handshake has an error number of OpenSSL's, which read as the system's would be
    "Operation not permitted".
    """

    async def luigid(_request: web.Request) -> web.Response:
        return web.json_response({"response": None})

    async with serving(luigid) as url:
        (problem,) = await problems_of(url.replace("http:", "https:"))
    assert problem.message == "the upstream u cannot be reached: the TLS handshake failed"


async def test_an_https_upstream_is_verified(tmp_path: Path) -> None:
    """As the running gate would: against its CA file, and not without."""
    made = make_self_signed(("localhost",), tmp_path, now=time.time())

    async def luigid(_request: web.Request) -> web.Response:
        return web.json_response({"response": None})

    async with serving(luigid, certificates=tmp_path) as url:
        assert await problems_of(url, ca_file=made.ca) == []
        (problem,) = await problems_of(url)
    assert "cannot be reached" in problem.message


async def test_an_issuer_is_asked_as_the_gate_would_ask_it(tmp_path: Path) -> None:
    """Discovery and keys, over HTTPS with its CA file; a mistake in the document is named, and one
    with a key file is not asked.
    """
    made = make_self_signed(("localhost",), tmp_path, now=time.time())

    async def configuration(_request: web.Request) -> web.Response:
        return web.json_response(
            {"issuer": "https://somebody.else", "jwks_uri": "https://somebody.else/keys"}
        )

    def issuer(url: str, **more: object) -> Issuer:
        members: dict[str, Any] = {"name": "okta", "issuer": url, "audiences": ("x",), **more}
        return Issuer.model_construct(**members)

    async with serving(configuration, certificates=tmp_path) as url:
        (wrong,) = await check_connectivity(locate, [issuer(url, ca_file=made.ca)], [])
        (unknown,) = await check_connectivity(locate, [None, issuer(url)], [None])
        assert (
            await check_connectivity(locate, [issuer("https://127.0.0.1:1", jwks_file=made.ca)], [])
            == []
        )
    assert "names another issuer" in wrong.message
    assert "certificate" in unknown.message
    assert unknown.location == "callgate.toml: issuers[1].issuer"
