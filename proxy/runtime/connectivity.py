"""What ``callgate check --online`` asks of the world: do the issuers give keys, and do the
upstreams speak their protocol.

Each issuer is asked as the running gate would ask it, each upstream one question that changes
nothing. An upstream that answers HTML where JSON or XML is due is named as such: that is a login
page, a load balancer or another program.
"""

import asyncio
from collections.abc import Sequence

import aiohttp
import orjson

from proxy.config.loading import Issuer, Upstream
from proxy.edge.https_fetch import describe_error, make_fetcher
from proxy.errors import ConfigError, Problem, Rejected
from proxy.identity.oidc_discovery import OidcKeys
from proxy.protocol.xmlrpc.codec import decode_response, encode_call
from proxy.runtime.process import make_target

MAX_BYTES = 1 << 20
TOTAL_SECONDS = 15.0
_FORM = "application/x-www-form-urlencoded"


async def ask(
    place: str, issuers: Sequence[Issuer | None], upstreams: Sequence[Upstream | None]
) -> list[Problem]:
    """Ask all of them at once; `place` names the settings file in the problems found. None stands
    for a row that could not be read.
    """
    questions = [
        _ask_issuer(f"{place}: issuers[{number}].issuer", issuer)
        for number, issuer in enumerate(issuers)
        if issuer and not issuer.jwks_file
    ]
    questions += [
        _ask_upstream(f"{place}: upstreams[{number}].url", upstream)
        for number, upstream in enumerate(upstreams)
        if upstream
    ]
    return [problem for found in await asyncio.gather(*questions) for problem in found]


async def _ask_issuer(place: str, issuer: Issuer) -> list[Problem]:
    try:
        keys = OidcKeys(issuer.issuer, make_fetcher(issuer.ca_file))
    except ConfigError:
        return []  # the CA file is no good, which is reported without asking anybody
    try:
        await keys.refresh()
    finally:
        await keys.close()
    if keys.problem is None:
        return []
    remedy = "Check the URL, the network and ca_file; or give the keys in jwks_file."
    return [Problem(place, f"the issuer {issuer.name} gives no keys: {keys.problem}", remedy)]


async def _ask_upstream(place: str, upstream: Upstream) -> list[Problem]:
    try:
        status, kind, body = await _post(upstream)
    except ConfigError:
        return []  # its certificates are no good, which is reported without asking anybody
    except TimeoutError:
        return [
            Problem(
                place,
                f"the upstream {upstream.name} does not answer",
                "Check that it runs and is not stuck.",
            )
        ]
    except (aiohttp.ClientError, OSError) as error:
        return [
            Problem(
                place,
                f"the upstream {upstream.name} cannot be reached: {describe_error(error)}",
                "Check that it runs, and the URL.",
            )
        ]
    due = "JSON" if upstream.protocol == "luigi" else "XML"
    if status in (401, 403):
        what = f"the upstream {upstream.name} asks for a password of its own (status {status})"
        return [Problem(place, what, 'Set basic_auth = { file = "path" } with user:password.')]
    if "html" in kind or body.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        what = f"the upstream {upstream.name} answers HTML where {due} is due (status {status})"
        return [
            Problem(
                place,
                what,
                f"Something else listens there; name the {_server(upstream)} itself, and its path.",
            )
        ]
    if status != 200 or not _is_answer(upstream, body):
        what = f"the upstream {upstream.name} does not answer like a {_server(upstream)} (status {status})"
        return [Problem(place, what, "Check protocol, url and path.")]
    return []


async def _post(upstream: Upstream) -> tuple[int, str, bytes]:
    """Put one question; returns status, media type and the beginning of the answer."""
    target = make_target(upstream)
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
