"""Checks that the issuers publish keys and that the upstreams speak their protocol.

``callgate check --online`` runs it.

Keys are fetched from each issuer as a serving process fetches them. Each upstream gets one call
that changes nothing. An upstream that answers HTML instead of JSON or XML gets a problem of its
own: that is a login page, a load balancer or another program.
"""

import asyncio
from collections.abc import Sequence

import aiohttp
import orjson

from proxy.common.validation import Locate
from proxy.config.loading import Issuer, Upstream
from proxy.edge.https_fetch import describe_error, make_fetcher
from proxy.errors import ConfigError, Problem, Rejected
from proxy.identity.oidc_discovery import OidcKeys
from proxy.protocol.xmlrpc.codec import decode_response, encode_call
from proxy.runtime.wiring import make_address

MAX_BYTES = 1 << 20
TOTAL_SECONDS = 15.0
_FORM = "application/x-www-form-urlencoded"


async def check_connectivity(
    locate: Locate, issuers: Sequence[Issuer | None], upstreams: Sequence[Upstream | None]
) -> list[Problem]:
    """Check all issuers and upstreams at once; return the problems.

    `locate` gives the location of a problem. None is a table that could not be read.
    """
    checks = [
        _check_issuer(locate(("issuers", number, "issuer")), issuer)
        for number, issuer in enumerate(issuers)
        if issuer and not issuer.jwks_file
    ]
    checks += [
        _check_upstream(locate(("upstreams", number, "url")), upstream)
        for number, upstream in enumerate(upstreams)
        if upstream
    ]
    return [problem for found in await asyncio.gather(*checks) for problem in found]


async def _check_issuer(location: str, issuer: Issuer) -> list[Problem]:
    try:
        keys = OidcKeys(issuer.issuer, make_fetcher(issuer.ca_file))
    except ConfigError:
        return []  # an unusable CA file is a problem that `check` reports by itself
    try:
        await keys.refresh()
    finally:
        await keys.close()
    if keys.problem is None:
        return []
    hint = "Check the URL, the network and ca_file, or give the keys in jwks_file."
    message = f"the issuer {issuer.name} publishes no keys: {keys.problem}"
    return [Problem(location, message, hint)]


async def _check_upstream(location: str, upstream: Upstream) -> list[Problem]:
    try:
        status, kind, body = await _post(upstream)
    except ConfigError:
        return []  # unusable certificates are a problem that `check` reports by itself
    except TimeoutError:
        message = f"the upstream {upstream.name} did not answer within {TOTAL_SECONDS:g} seconds"
        return [Problem(location, message, "Check that it runs and is not stuck.")]
    except (aiohttp.ClientError, OSError) as error:
        message = f"the upstream {upstream.name} cannot be reached: {describe_error(error)}"
        return [Problem(location, message, "Check that it runs, and check the URL.")]
    expected = "JSON" if upstream.protocol == "luigi" else "XML"
    if status in (401, 403):
        message = f"the upstream {upstream.name} requires a password of its own (status {status})"
        return [
            Problem(location, message, 'Set basic_auth = { file = "path" } with user:password.')
        ]
    if "html" in kind or body.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        message = (
            f"the upstream {upstream.name} answers HTML, expected {expected} (status {status})"
        )
        hint = f"Another program listens there. Name the {_server(upstream)} itself, and its path."
        return [Problem(location, message, hint)]
    if status != 200 or not _is_answer(upstream, body):
        message = (
            f"the upstream {upstream.name} does not answer like a {_server(upstream)}"
            f" (status {status})"
        )
        return [Problem(location, message, "Check protocol, url and upstream_path.")]
    return []


async def _post(upstream: Upstream) -> tuple[int, str, bytes]:
    """Make one call; return status, media type and the first `MAX_BYTES` of the answer."""
    target = make_address(upstream)
    headers = {"Content-Type": _FORM if upstream.protocol == "luigi" else "text/xml"}
    if target.authorization:
        headers["Authorization"] = target.authorization.decode("ascii")
    body = b"data=%7B%7D" if upstream.protocol == "luigi" else encode_call("system.listMethods", [])
    path = (
        f"{upstream.upstream_path}/api/is_pause_enabled"
        if upstream.protocol == "luigi"
        else upstream.upstream_path
    )
    connector = aiohttp.UnixConnector(target.socket) if target.socket else aiohttp.TCPConnector()
    host = f"[{target.host}]" if ":" in target.host else target.host
    origin = (
        "http://localhost"
        if target.socket
        else f"{'https' if target.tls else 'http'}://{host}:{target.port}"
    )
    async with (
        aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=TOTAL_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        ) as session,
        session.post(
            origin + path, data=body, headers=headers, ssl=target.tls or True, allow_redirects=False
        ) as answer,
    ):
        return answer.status, answer.content_type, await answer.content.read(MAX_BYTES)


def _is_answer(upstream: Upstream, body: bytes) -> bool:
    try:
        if upstream.protocol == "luigi":
            found = orjson.loads(body)
            return isinstance(found, dict) and "response" in found
        decode_response(body)  # a fault is an answer too: some servers have no introspection
    except (orjson.JSONDecodeError, Rejected):
        return False
    return True


def _server(upstream: Upstream) -> str:
    return "luigid" if upstream.protocol == "luigi" else "XML-RPC server"
