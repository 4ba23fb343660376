"""TLS contexts against real clients and servers."""

import asyncio
import datetime
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from proxy.cli.demo.certificate import SelfSigned, make_self_signed
from proxy.edge.tls import ReloadingCertificate, server_context, upstream_context
from proxy.errors import ConfigError

# asyncio closes after a failed handshake, sometimes before it has sent its alert.
REFUSED = (ssl.SSLError, ConnectionError)
DAY = 86_400.0
HOSTS = ("localhost", "127.0.0.1", "::1")


@pytest.fixture
def made(tmp_path: Path) -> SelfSigned:
    """Make a self-signed pair."""
    return make_self_signed(HOSTS, tmp_path, now=time.time())


@contextmanager
def served(context: ssl.SSLContext) -> Iterator[int]:
    """Run an echo server with `context` on a free port, under asyncio, and yield the port."""
    started = threading.Event()
    port = 0
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    async def main() -> None:
        nonlocal port
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        started.set()
        await stop.wait()
        server.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    assert started.wait(10)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        assert not thread.is_alive()


def connect(
    port: int,
    context: ssl.SSLContext,
    name: str | None = "localhost",
    session: ssl.SSLSession | None = None,
) -> ssl.SSLSocket:
    """Connect as a client; the handshake is finished when this returns."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=10)
    try:
        return context.wrap_socket(plain, server_hostname=name, session=session)
    except BaseException:
        plain.close()
        raise


def client(**changes: object) -> ssl.SSLContext:
    """Return a client context that accepts any certificate and any protocol version."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for name, value in changes.items():
        setattr(context, name, value)
    return context


def serial(port: int, context: ssl.SSLContext | None = None, name: str | None = "localhost") -> int:
    """Connect and return the serial number of the server's certificate."""
    with connect(port, context or client(), name) as connection:
        shown = connection.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


def answer(connection: ssl.SSLSocket, line: bytes) -> bytes:
    """Send a line and return the echo, or nothing if the server has hung up."""
    try:
        connection.sendall(line)
        return connection.recv(100)
    except REFUSED:
        return b""


def serial_of(path: Path) -> int:
    """Return the serial number of the certificate in a file."""
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


def make_rsa_pair(certificate: Path, key: Path) -> None:
    """Replace a pair by a self-signed RSA one."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    made = (
        x509.CertificateBuilder(
            name,
            name,
            private.public_key(),
            x509.random_serial_number(),
            start,
            start + datetime.timedelta(days=1),
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(private, hashes.SHA256())
    )
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))


class TestListener:
    """The context of a listener, against real clients over real connections."""

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_tls_1_2_and_1_3_verify_against_the_ca_file(
        self, made: SelfSigned, version: ssl.TLSVersion
    ) -> None:
        """A stock client that trusts ca.pem connects by name and by address.

        It gets an AEAD suite and http/1.1.
        """
        trusting = ssl.create_default_context(cafile=made.ca)
        trusting.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
        trusting.minimum_version = trusting.maximum_version = version
        trusting.set_alpn_protocols(["h2", "http/1.1"])
        with served(server_context(made.certificate, made.key)) as port:
            for name in ("localhost", "127.0.0.1"):
                with connect(port, trusting, name) as connection:
                    suite = connection.cipher()
                    assert suite is not None
                    assert "GCM" in suite[0] or "CHACHA20" in suite[0]
                    assert connection.selected_alpn_protocol() == "http/1.1"
                    assert (
                        connection.version()
                        == {ssl.TLSVersion.TLSv1_2: "TLSv1.2", ssl.TLSVersion.TLSv1_3: "TLSv1.3"}[
                            version
                        ]
                    )

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
    @pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
    def test_old_versions_are_refused(self, made: SelfSigned, version: ssl.TLSVersion) -> None:
        """TLS 1.0 and 1.1 are refused (RFC 8996), even if the client offers nothing else."""
        old = client(minimum_version=version, maximum_version=version)
        old.set_ciphers("ALL:@SECLEVEL=0")
        with served(server_context(made.certificate, made.key)) as port, pytest.raises(REFUSED):
            connect(port, old)

    def test_the_same_client_connects_with_a_good_suite(self, made: SelfSigned) -> None:
        """The control for the tests of refusals: one good suite is enough."""
        good = client(maximum_version=ssl.TLSVersion.TLSv1_2)
        good.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256:@SECLEVEL=0")
        with served(server_context(made.certificate, made.key)) as port:
            assert serial(port, good) == serial_of(made.certificate)

    @pytest.mark.parametrize(
        "suite",
        [
            "ECDHE-ECDSA-AES128-SHA",
            "ECDHE-ECDSA-AES256-SHA384",
            "ECDHE-ECDSA-AES128-CCM8",
            "AES128-GCM-SHA256",
            "AES256-SHA",
        ],
    )
    def test_weak_suites_are_refused(self, made: SelfSigned, suite: str) -> None:
        """CBC suites, short tags, and key exchange without forward secrecy are refused."""
        weak = client(maximum_version=ssl.TLSVersion.TLSv1_2)
        weak.set_ciphers(f"{suite}:@SECLEVEL=0")
        with served(server_context(made.certificate, made.key)) as port, pytest.raises(REFUSED):
            connect(port, weak)

    @pytest.mark.parametrize(
        "suite",
        ["AES128-GCM-SHA256", "AES256-SHA", "ECDHE-RSA-AES128-SHA256", "DHE-RSA-AES128-GCM-SHA256"],
    )
    def test_weak_suites_are_refused_with_an_rsa_certificate_too(
        self, tmp_path: Path, suite: str
    ) -> None:
        """RSA key exchange, impossible with an ECDSA certificate, is not offered here either."""
        certificate, key = tmp_path / "rsa.crt", tmp_path / "rsa.key"
        make_rsa_pair(certificate, key)
        weak = client(maximum_version=ssl.TLSVersion.TLSv1_2)
        weak.set_ciphers(f"{suite}:@SECLEVEL=0")
        with served(server_context(certificate, key)) as port:
            with pytest.raises(REFUSED):
                connect(port, weak)
            assert serial(port) == serial_of(certificate)

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_no_ticket_is_given(self, made: SelfSigned, version: ssl.TLSVersion) -> None:
        """Without tickets no key opens recorded sessions for the life of the process."""
        modern = client(minimum_version=version, maximum_version=version)
        with (
            served(server_context(made.certificate, made.key)) as port,
            connect(port, modern) as connection,
        ):
            assert answer(connection, b"a ticket would precede this\n") != b""
            session = connection.session
            assert session is not None
            assert not session.has_ticket

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_a_session_is_resumed_in_tls_1_2_only_and_only_in_its_process(
        self, made: SelfSigned, version: ssl.TLSVersion
    ) -> None:
        """TLS 1.3 never resumes. TLS 1.2 resumes from the memory of one process only."""
        modern = client(minimum_version=version, maximum_version=version)
        with (
            served(server_context(made.certificate, made.key)) as port,
            served(server_context(made.certificate, made.key)) as other,
        ):
            with connect(port, modern) as connection:
                assert answer(connection, b"begun\n") != b""
                session = connection.session
                connection.unwrap()
            for where, resumed in ((port, version is ssl.TLSVersion.TLSv1_2), (other, False)):
                with connect(where, modern, session=session) as connection:
                    assert answer(connection, b"again\n") != b""
                    assert connection.session_reused is resumed

    def test_the_key_can_come_from_the_environment(self, made: SelfSigned, tmp_path: Path) -> None:
        """A key given as text works and is never written to a disk."""
        before = sorted(tmp_path.iterdir())
        with served(server_context(made.certificate, made.key.read_text(encoding="ascii"))) as port:
            assert serial(port) == serial_of(made.certificate)
        assert sorted(tmp_path.iterdir()) == before

    def test_a_key_with_a_pass_phrase_is_refused_at_once(self, made: SelfSigned) -> None:
        """OpenSSL would prompt on the terminal, and the process would hang at start-up."""
        private = serialization.load_pem_private_key(made.key.read_bytes(), None)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        locked = private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        )
        made.key.write_bytes(locked)
        with pytest.raises(ConfigError) as caught:
            server_context(made.certificate, made.key)
        assert "pass phrase" in caught.value.problems[0].hint

    @pytest.mark.parametrize(
        "content",
        [b"", b"no PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"],
    )
    def test_an_invalid_certificate_is_named(self, made: SelfSigned, content: bytes) -> None:
        """The problem has the path of the certificate."""
        made.certificate.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            server_context(made.certificate, made.key)
        assert caught.value.problems[0].location == str(made.certificate)

    @pytest.mark.parametrize(("days", "reason"), [(91, "expired on"), (-2, "is not valid before")])
    def test_a_pair_outside_its_time_is_refused(
        self, tmp_path: Path, days: int, reason: str
    ) -> None:
        """At the start, too: the time is in the reason."""
        made = make_self_signed(HOSTS, tmp_path, now=time.time() - days * DAY)
        with pytest.raises(ConfigError, match=reason):
            server_context(made.certificate, made.key)
        with pytest.raises(ConfigError, match=reason):
            ReloadingCertificate(made.certificate, made.key)
        with pytest.raises(ConfigError, match=reason):  # what Callgate shows to an upstream
            upstream_context(made.ca, made.certificate, made.key)


class TestReload:
    """A certificate that follows its files, without dropping a connection."""

    @pytest.mark.parametrize(
        "name", ["localhost", None], ids=["with-server-name", "without-server-name"]
    )
    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_new_handshakes_use_the_new_pair_and_open_connections_go_on(
        self, made: SelfSigned, tmp_path: Path, name: str | None, version: ssl.TLSVersion
    ) -> None:
        """A renewal needs no restart and loses no connection, with or without a server name."""
        reloading = ReloadingCertificate(made.certificate, made.key)
        asking = client(minimum_version=version, maximum_version=version)
        with served(reloading.context) as port, connect(port, asking, name) as open_before:
            first = serial(port, asking, name)
            assert not reloading.reload_if_changed()
            for _ in range(2):
                make_self_signed(HOSTS, tmp_path, now=time.time())
                assert reloading.reload_if_changed()
                assert not reloading.reload_if_changed()
                assert serial(port, asking, name) == serial_of(made.certificate) != first
            open_before.sendall(b"still here\n")
            assert open_before.recv(100) == b"still here\n"

    def test_a_change_of_key_type_leaves_no_old_certificate(self, made: SelfSigned) -> None:
        """After ECDSA gives way to RSA, no client is shown the old certificate."""
        reloading = ReloadingCertificate(made.certificate, made.key)
        with served(reloading.context) as port:
            serial(port)
            make_rsa_pair(made.certificate, made.key)
            assert reloading.reload_if_changed()
            assert serial(port) == serial_of(made.certificate)
            assert serial(port, client(maximum_version=ssl.TLSVersion.TLSv1_2)) == serial_of(
                made.certificate
            )

    def test_a_handshake_after_a_reload_is_as_strict_as_before(
        self, made: SelfSigned, tmp_path: Path
    ) -> None:
        """The new context has the same rules as the old one."""
        reloading = ReloadingCertificate(made.certificate, made.key)
        make_self_signed(HOSTS, tmp_path, now=time.time())
        assert reloading.reload_if_changed()
        weak = client(maximum_version=ssl.TLSVersion.TLSv1_2)
        weak.set_ciphers("ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
        modern = client()
        modern.set_alpn_protocols(["http/1.1"])
        with served(reloading.context) as port:
            with pytest.raises(REFUSED):
                connect(port, weak)
            with connect(port, modern) as connection:
                assert connection.selected_alpn_protocol() == "http/1.1"

    @pytest.mark.parametrize(
        "damage", ["key-of-another", "half-a-certificate", "no-key", "no-certificate"]
    )
    def test_a_bad_pair_keeps_the_old_one_and_is_reported_once(
        self, made: SelfSigned, tmp_path: Path, damage: str
    ) -> None:
        """A failed renewal keeps the old pair in use and is reported once, at the second check.

        The next good pair is loaded.
        """
        reloading = ReloadingCertificate(made.certificate, made.key)
        old = serial_of(made.certificate)
        other = tmp_path / "other"
        other.mkdir()
        fresh = make_self_signed(HOSTS, other, now=time.time())
        match damage:
            case "key-of-another":
                fresh.key.rename(made.key)
            case "half-a-certificate":
                made.certificate.write_bytes(made.certificate.read_bytes()[:200])
            case "no-key":
                made.key.unlink()
            case _:
                made.certificate.unlink()
        with served(reloading.context) as port:
            assert not reloading.reload_if_changed(), (
                "the first check may have come between the two files"
            )
            with pytest.raises(ConfigError):
                reloading.reload_if_changed()
            assert not reloading.reload_if_changed()
            assert serial(port) == old
            make_self_signed(HOSTS, tmp_path, now=time.time())
            assert reloading.reload_if_changed()
            assert serial(port) == serial_of(made.certificate) != old

    @pytest.mark.parametrize("days", [91, -2], ids=["expired", "not yet valid"])
    def test_a_pair_outside_its_time_is_not_taken(
        self, made: SelfSigned, tmp_path: Path, days: int
    ) -> None:
        """Clients would refuse it. The old pair stays in use, and the reason is given once."""
        reloading = ReloadingCertificate(made.certificate, made.key)
        old = serial_of(made.certificate)
        make_self_signed(HOSTS, tmp_path, now=time.time() - days * DAY)
        with served(reloading.context) as port:
            assert not reloading.reload_if_changed()
            with pytest.raises(ConfigError, match=r"expired on|is not valid before"):
                reloading.reload_if_changed()
            assert not reloading.reload_if_changed()
            assert serial(port) == old

    @pytest.mark.interpreted
    def test_the_old_behaviour_took_it(
        self, made: SelfSigned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where its time is not looked at, an expired pair is a successful reload."""
        reloading = ReloadingCertificate(made.certificate, made.key)
        make_self_signed(HOSTS, tmp_path, now=time.time() - 91 * DAY)
        monkeypatch.setattr("proxy.edge.tls.refuse_invalid", lambda certificate, now: None)
        with served(reloading.context) as port:
            assert reloading.reload_if_changed()
            assert serial(port) == serial_of(made.certificate)

    def test_a_pair_whose_time_has_not_begun_is_taken_when_it_does(
        self, made: SelfSigned, tmp_path: Path
    ) -> None:
        """It was installed ahead of its time, and its files do not change again."""
        now = time.time()
        reloading = ReloadingCertificate(made.certificate, made.key, clock=lambda: now)
        make_self_signed(HOSTS, tmp_path, now=now + 2 * DAY)
        assert not reloading.reload_if_changed()
        with pytest.raises(ConfigError, match="is not valid before"):
            reloading.reload_if_changed()
        now += 1.9 * DAY
        assert not reloading.reload_if_changed()
        now += 0.2 * DAY
        assert reloading.reload_if_changed()
        assert not reloading.reload_if_changed()
        assert reloading.validity.valid_at(now)

    def test_files_replaced_one_after_the_other_are_no_error(
        self, made: SelfSigned, tmp_path: Path
    ) -> None:
        """Between the two renames the pair does not match, which is not reported."""
        reloading = ReloadingCertificate(made.certificate, made.key)
        other = tmp_path / "other"
        other.mkdir()
        fresh = make_self_signed(HOSTS, other, now=time.time())
        fresh.key.rename(made.key)
        assert not reloading.reload_if_changed()
        fresh.certificate.rename(made.certificate)
        assert reloading.reload_if_changed()

    def test_a_file_rewritten_in_place_with_the_same_size_is_noticed(
        self, made: SelfSigned
    ) -> None:
        """Not every tool renames; the modification time tells."""
        reloading = ReloadingCertificate(made.certificate, made.key)
        made.certificate.write_bytes(made.certificate.read_bytes())
        later = made.certificate.stat().st_mtime_ns + 1
        os.utime(made.certificate, ns=(later, later))
        assert reloading.reload_if_changed()


class TestUpstream:
    """The context for https servers."""

    def test_the_server_is_verified_against_its_ca(self, made: SelfSigned) -> None:
        """A server without the certificate of the upstream gets no call."""
        with served(server_context(made.certificate, made.key)) as port:
            with connect(port, upstream_context(made.ca)) as connection:
                assert connection.version() == "TLSv1.3"
            with pytest.raises(ssl.SSLCertVerificationError):
                connect(port, upstream_context())
            with pytest.raises(ssl.SSLCertVerificationError):
                connect(port, upstream_context(made.ca), "elsewhere.example")

    @pytest.mark.parametrize(
        "suite",
        ["ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256"],
    )
    def test_only_forward_secret_aead_suites_are_offered(
        self, made: SelfSigned, suite: str
    ) -> None:
        """A server with CBC suites only gets no call; the same server with one good suite does."""
        only = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        only.maximum_version = ssl.TLSVersion.TLSv1_2
        only.set_ciphers(f"{suite}:@SECLEVEL=0")
        only.load_cert_chain(made.certificate, made.key)
        with served(only) as port:
            if "GCM" in suite:
                with connect(port, upstream_context(made.ca)) as connection:
                    assert connection.cipher() == (suite, "TLSv1.2", 128)
            else:
                with connect(port, client(maximum_version=ssl.TLSVersion.TLSv1_2)) as connection:
                    assert connection.cipher() is not None, "the server works"
                with pytest.raises(REFUSED):
                    connect(port, upstream_context(made.ca))

    def test_client_and_server_offer_the_same_suites(self, made: SelfSigned) -> None:
        """A suite that the listener refuses is not offered to an upstream or an issuer."""
        offered = upstream_context(made.ca).get_ciphers()
        assert [suite["name"] for suite in offered] == [
            suite["name"] for suite in server_context(made.certificate, made.key).get_ciphers()
        ]
        for suite in offered:
            assert suite["aead"], suite["name"]
            assert suite["protocol"] == "TLSv1.3" or suite["kea"] == "kx-ecdhe", suite["name"]

    def test_the_client_certificate_is_sent(self, made: SelfSigned, tmp_path: Path) -> None:
        """An upstream that asks for a certificate can identify the proxy by it."""
        own = tmp_path / "own"
        own.mkdir()
        make_rsa_pair(own / "client.crt", own / "client.key")
        asking = server_context(made.certificate, made.key)
        asking.verify_mode = ssl.CERT_REQUIRED
        asking.load_verify_locations(own / "client.crt")
        with served(asking) as port:
            with connect(
                port, upstream_context(made.ca, own / "client.crt", own / "client.key")
            ) as connection:
                connection.sendall(b"known\n")
                assert connection.recv(100) == b"known\n"
            # In TLS 1.3 the client finishes its handshake before the server checks it.
            with connect(port, upstream_context(made.ca)) as connection:
                assert answer(connection, b"unknown\n") == b""

    def test_a_ca_file_without_a_ca_is_named(self, tmp_path: Path) -> None:
        """A fallback to the system's CAs would trust more than was configured."""
        empty = tmp_path / "ca.pem"
        empty.write_text("")
        with pytest.raises(ConfigError) as caught:
            upstream_context(empty)
        assert caught.value.problems[0].location == str(empty)
