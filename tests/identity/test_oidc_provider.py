"""The identity part against a certified OpenID provider (npm's oidc-provider), over real TLS."""

import asyncio
import base64
import datetime
import ipaddress
import json
import os
import shutil
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from proxy.edge.https_fetch import make_fetcher
from proxy.errors import Rejected
from proxy.identity.access_token import TokenProfile
from proxy.identity.issuer import Issuer
from proxy.identity.oidc_discovery import OidcKeys
from proxy.identity.verifier import Verifier
from proxy.model import Credentials, Reason
from tests.support.tokens import Clock, bearer, viewer

pytestmark = pytest.mark.process  # starts the command, or another program

HERE = Path(__file__).parent / "oidc"
AUDIENCE = "urn:callgate:luigi"


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """Make a self-signed certificate for 127.0.0.1, which is its own CA, and its key."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, hashes.SHA256())
    )
    paths = directory / "provider.crt", directory / "provider.key"
    paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    paths[1].write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


class Provider:
    """The running provider: its issuer URL, and what a client and an administrator do with it."""

    def __init__(self, process: asyncio.subprocess.Process, issuer: str, ca: Path) -> None:
        self.issuer = issuer
        self.ca = ca
        self._process = process

    async def token(self, audience: str = AUDIENCE) -> str:
        """Get an access token for `audience` as a service does, by client credentials."""
        basic = base64.b64encode(b"etl-07:made-up-for-this-test").decode()
        form = {"grant_type": "client_credentials", "resource": audience, "scope": "call"}
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Basic {basic}"}) as session,
            session.post(
                self.issuer + "/token", data=form, ssl=ssl.create_default_context(cafile=self.ca)
            ) as answer,
        ):
            found = await answer.json()
            assert answer.status == 200, found
            return str(found["access_token"])

    async def rotate(self) -> str:
        """Replace the signing key; return the new kid."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(b"rotate\n")
        return str(json.loads(await self._process.stdout.readline())["kid"])

    async def stop(self) -> None:
        """Stop the provider."""
        if self._process.returncode is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            await asyncio.wait_for(self._process.wait(), 30)


@pytest_asyncio.fixture
async def provider(tmp_path: Path) -> AsyncIterator[Provider]:
    """Start a provider for each test."""
    node = shutil.which("node")
    if node is None or not (HERE / "node_modules").is_dir():
        what = "the OpenID provider needs node 18 or later and: npm ci --prefix tests/identity/oidc"
        if os.environ.get("CI") == "true":
            pytest.fail(what)
        pytest.skip(what)
    certificate, key = make_certificate(tmp_path)
    process = await asyncio.create_subprocess_exec(
        node,
        str(HERE / "server.mjs"),
        str(certificate),
        str(key),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # warnings that it runs without a proxy and keeps its state in memory
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 60)
    running = Provider(process, json.loads(line)["issuer"], certificate)
    try:
        yield running
    finally:
        await running.stop()


def gate(provider: Provider, clock: Clock, audience: str = AUDIENCE) -> tuple[OidcKeys, Verifier]:
    """Return a verifier of the provider's tokens, on the default settings, with the edge's own
    fetch.
    """
    source = OidcKeys(provider.issuer, make_fetcher(provider.ca), clock=clock)
    return source, Verifier(
        [Issuer("idp", TokenProfile(provider.issuer, (audience,)), source)], viewer
    )


async def reason(verifier: Verifier, text: str) -> Reason:
    """Return why `text` is refused."""
    with pytest.raises(Rejected) as refused:
        await verifier.authenticate(Credentials(bearer(text)), time.time())
    return refused.value.reason


async def test_a_real_access_token_is_accepted(provider: Provider) -> None:
    """Discovery, key set and access token of a certified provider lead to the principal; a token
    for another audience is refused.
    """
    source, verifier = gate(provider, Clock())
    await verifier.start()
    assert source.problem is None
    principal = await verifier.authenticate(
        Credentials(bearer(await provider.token())), time.time()
    )
    assert (principal.name, principal.issuer, principal.groups) == (
        "idp|etl-07",
        provider.issuer,
        ("etl",),
    )
    assert (
        await reason(verifier, await provider.token("urn:callgate:other")) is Reason.WRONG_AUDIENCE
    )
    await verifier.close()


async def test_a_rotation_at_the_provider_is_followed(provider: Provider) -> None:
    """A token of the provider's new key is accepted at once, and one of the withdrawn key no
    longer, although it was cached.
    """
    clock = Clock()
    source, verifier = gate(provider, clock)
    old = await provider.token()
    await verifier.authenticate(Credentials(bearer(old)), time.time())
    kid = await provider.rotate()
    new = await provider.token()
    clock.now += 30
    assert (await verifier.authenticate(Credentials(bearer(new)), time.time())).subject == "etl-07"
    assert source.keys is not None and [key.kid for key in source.keys.keys] == [kid]
    assert verifier.cached(Credentials(bearer(old)), time.time()) is None
    assert await reason(verifier, old) is Reason.UNKNOWN_KEY


async def test_a_provider_that_is_down_leaves_its_tokens_good(provider: Provider) -> None:
    """The last keys of a stopped provider serve cached tokens, and new ones that it signed before."""
    source, verifier = gate(provider, Clock())
    first, second = await provider.token(), await provider.token()
    await verifier.authenticate(Credentials(bearer(first)), time.time())
    await provider.stop()
    await source.refresh()
    assert source.problem is not None and source.generation == 0
    assert verifier.cached(Credentials(bearer(first)), time.time()) is not None
    assert (
        await verifier.authenticate(Credentials(bearer(second)), time.time())
    ).subject == "etl-07"


async def test_a_provider_that_was_never_reached(provider: Provider) -> None:
    """Down from the start, or behind a certificate of an unknown CA, the issuer is unavailable and
    no token is trusted.
    """
    text = await provider.token()
    source = OidcKeys(provider.issuer, make_fetcher(), clock=Clock())
    verifier = Verifier([Issuer("idp", TokenProfile(provider.issuer, (AUDIENCE,)), source)], viewer)
    assert await reason(verifier, text) is Reason.ISSUER_UNAVAILABLE
    assert source.problem is not None and "certificate" in source.problem
    await provider.stop()
    _, later = gate(provider, Clock())
    assert await reason(later, text) is Reason.ISSUER_UNAVAILABLE
