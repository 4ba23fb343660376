import re
from pathlib import Path

import pytest

from tests.support.settings import MINIMAL, only, place, problems, read, secret_file, with_upstream


def test_plain_http_never_leaves_the_machine(tmp_path: Path) -> None:
    """Tokens over plain HTTP could be read on the network."""
    problem = only(tmp_path, MINIMAL.replace("plain_http", 'address = "0.0.0.0"\nplain_http'))
    assert place(problem) == "listeners[0].plain_http"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_plain_http_is_allowed_on_loopback(tmp_path: Path, address: str) -> None:
    """For a sidecar, or a TLS terminator on the same machine."""
    assert (
        read(tmp_path, MINIMAL.replace("plain_http", f'address = "{address}"\nplain_http'))
        .listeners[0]
        .plain_http
    )


def test_a_listener_without_a_certificate_is_refused(tmp_path: Path) -> None:
    """Without a certificate, plain HTTP is not the default."""
    problem = only(tmp_path, MINIMAL.replace("plain_http = true", ""))
    assert (place(problem), problem.message) == (
        "listeners[0]",
        "certificate and key are missing",
    )


def test_the_memory_of_a_process_is_enough_for_the_largest_body(tmp_path: Path) -> None:
    """Else no call with such a body could ever be made, and each would be refused as overloaded."""
    problem = only(tmp_path, f"{MINIMAL}\n[limits]\nmemory_bytes = 200000000\n")
    assert place(problem) == "limits.memory_bytes"
    assert "16777216" in problem.message
    needed = int("".join(re.findall(r"at least (\d+)", problem.hint)))
    enough = read(tmp_path, f"{MINIMAL}\n[limits]\nmemory_bytes = {needed}\n")
    assert enough.limits.memory_bytes == needed
    only(tmp_path, f"{MINIMAL}\n[limits]\nmemory_bytes = {needed - 1}\n")
    only(tmp_path, f"{MINIMAL}\n[limits]\nbody_bytes = 20000000\n")


@pytest.mark.parametrize(
    ("given", "missing"),
    [("certificate", "key is missing"), ("key", "certificate is missing")],
)
def test_half_of_a_pair_is_refused(tmp_path: Path, given: str, missing: str) -> None:
    """A listener needs its certificate and its key."""
    path = secret_file(tmp_path)
    value = f'"{path}"' if given == "certificate" else f'{{ file = "{path}" }}'
    text = MINIMAL.replace("plain_http = true", f"{given} = {value}")
    assert only(tmp_path, text).message == missing


def test_tls_and_plain_http_exclude_each_other(tmp_path: Path) -> None:
    """Which of the two was meant is not guessed."""
    path = secret_file(tmp_path)
    pair = f'certificate = "{path}"\nkey = {{ file = "{path}" }}\n'
    problem = only(tmp_path, MINIMAL.replace("plain_http = true\n", f"plain_http = true\n{pair}"))
    assert place(problem) == "listeners[0].plain_http"
    assert problem.message == "cannot be combined with certificate and key"


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "localhost", True),
        ("::1", "::", True),
        ("127.0.0.1", "::", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "::1", False),
        ("::1", "0.0.0.0", False),
    ],
)
def test_two_listeners_never_share_a_port_of_an_address(
    tmp_path: Path, first: str, second: str, clash: bool
) -> None:
    """The second bind would fail, or take clients of the first."""
    path = secret_file(tmp_path)
    row = f'certificate = "{path}"\nkey = {{ file = "{path}" }}\n'
    text = MINIMAL.replace("plain_http = true\n", f'address = "{first}"\n{row}')
    text += f'[[listeners]]\naddress = "{second}"\n{row}'
    if not clash:
        assert len(read(tmp_path, text).listeners) == 2
        return
    problem = only(tmp_path, text)
    assert place(problem) == "listeners[1].port"
    assert problem.message == "listeners[0] has this port already"


@pytest.mark.parametrize(
    ("listener", "processes", "metrics", "message", "hint"),
    [
        ("port = 9464", 1, "", "is the port of listeners[0]", "9465"),
        ("port = 9466", 3, "", "9464 to 9466, and 9466 is the port", "9467"),
        (
            "port = 65535",
            2,
            "[metrics]\nport = 65534",
            "65534 to 65535, and 65535 is the port",
            "65533",
        ),
        (
            "port = 9000",
            4,
            "[metrics]\nport = 65533",
            "65533 to 65536, and there are none beyond 65535",
            "65532 or less",
        ),
        (
            'port = 9464\naddress = "localhost"',
            1,
            '[metrics]\naddress = "::1"',
            "is the port of listeners[0]",
            "9465",
        ),
    ],
)
def test_a_metrics_port_of_a_listener_or_beyond_the_last_is_refused(
    tmp_path: Path,
    listener: str,
    processes: int,
    metrics: str,
    message: str,
    hint: str,
) -> None:
    """Each process has a metrics port of its own, counted up from the first."""
    text = MINIMAL.replace("[[listeners]]\n", f"[[listeners]]\n{listener}\n") + metrics
    problem = only(tmp_path, f"processes = {processes}\n{text}")
    assert place(problem) == "metrics.port"
    assert message in problem.message
    assert hint in problem.hint


@pytest.mark.parametrize(
    ("listener", "processes", "metrics"),
    [
        ("port = 9463", 64, ""),
        ("port = 9466", 2, ""),
        ("port = 9464", 1, "[metrics]\nport = 0"),
        ('port = 9464\naddress = "127.0.0.2"', 1, ""),
        ("", 4, "[metrics]\nport = 65532"),
    ],
)
def test_ports_of_the_metrics_next_to_those_of_listeners_are_fine(
    tmp_path: Path, listener: str, processes: int, metrics: str
) -> None:
    """The nearest ports that do not meet, other addresses, and no metrics at all."""
    text = MINIMAL.replace("[[listeners]]\n", f"[[listeners]]\n{listener}\n") + metrics
    assert read(tmp_path, f"processes = {processes}\n{text}").processes == processes


def test_metrics_on_the_port_of_a_listener_for_every_address(tmp_path: Path) -> None:
    """Every address has the loopback ports too."""
    text = MINIMAL.replace("[[listeners]]\n", '[[listeners]]\nport = 9464\naddress = "0.0.0.0"\n')
    assert "metrics.port" in [place(problem) for problem in problems(tmp_path, text)]


def test_an_issuer_is_required(tmp_path: Path) -> None:
    """Without an issuer no caller could be identified."""
    assert (
        place(only(tmp_path, MINIMAL.replace('[local_issuer]\ndirectory = "issuer"', "")))
        == "issuers"
    )


def test_an_upstream_is_required(tmp_path: Path) -> None:
    """Without an upstream no call could be forwarded."""
    assert (
        place(only(tmp_path, re.sub(r"\[\[upstreams\]\](\n[^\[].*)*", "", MINIMAL))) == "upstreams"
    )


@pytest.mark.parametrize(
    ("issuer", "key"),
    [
        ('name = "a"\nissuer = "https://one.example"', "issuers[1].name"),
        ('name = "b"\nissuer = "https://a.example"', "issuers[1].issuer"),
        ('name = "local"\nissuer = "https://b.example"', "issuers[1].name"),
        ('name = "b"\nissuer = "https://callgate.local/issuer"', "issuers[1].issuer"),
    ],
)
def test_two_issuers_differ_in_name_and_url(tmp_path: Path, issuer: str, key: str) -> None:
    """A principal is issuer and subject: equal names would mix the users of two issuers."""
    audiences = 'audiences = ["x"]\n'
    rows = f'[[issuers]]\nname = "a"\nissuer = "https://a.example"\n{audiences}'
    rows += f"[[issuers]]\n{issuer}\n{audiences}"
    assert place(only(tmp_path, MINIMAL + rows)) == key


def test_an_xmlrpc_upstream_names_its_catalog(tmp_path: Path) -> None:
    """There is no catalog that fits every XML-RPC server."""
    assert place(only(tmp_path, with_upstream(catalog=""))) == "upstreams[1].catalog"


def test_the_name_of_the_operators_log_is_reserved(tmp_path: Path) -> None:
    """`callgate audit archive` writes a log of that name, and would not get its lock."""
    assert (
        place(
            only(
                tmp_path,
                MINIMAL.replace('directory = "audit"', 'directory = "audit"\nname = "operator"'),
            )
        )
        == "audit.name"
    )


@pytest.mark.parametrize("prefix", ["/api", "/static", "/history/x", "/RPC2"])
def test_a_prefix_does_not_hide_a_part_of_another_upstream(tmp_path: Path, prefix: str) -> None:
    """A second upstream at /api would take the calls of the luigi at /."""
    assert "would hide" in only(tmp_path, with_upstream(path_prefix=prefix)).message


def test_a_client_certificate_comes_with_its_key_and_https(tmp_path: Path) -> None:
    """Half of a pair, or a pair on plain HTTP, would silently do nothing."""
    secret_file(tmp_path)
    found = problems(tmp_path, with_upstream(client_certificate="secret"))
    assert [place(problem) for problem in found] == [
        "upstreams[1].client_certificate",
        "upstreams[1].url",
    ]


def test_a_client_key_requires_its_certificate(tmp_path: Path) -> None:
    """The problem names the key that is there, and the key that it requires."""
    secret_file(tmp_path)
    text = with_upstream(url="https://127.0.0.1:9001") + 'client_key = { file = "secret" }\n'
    problem = only(tmp_path, text)
    assert place(problem) == "upstreams[1].client_key"
    assert problem.message == "requires client_certificate"


@pytest.mark.parametrize("name", ["listeners", "issuers", "upstreams"])
def test_an_empty_list_is_like_a_missing_one(tmp_path: Path, name: str) -> None:
    """A list in one line can be empty."""
    text = MINIMAL.replace('[local_issuer]\ndirectory = "issuer"\n', "")
    text = re.sub(rf"\[\[{name}\]\](\n[^\[].*)*", "", text)
    found = [problem.message for problem in problems(tmp_path, f"{name} = []\n{text}")]
    assert f"no {name.removesuffix('s')} is configured" in found


@pytest.mark.parametrize(
    "given", ["nowhere", "10.0.0.1/8", "0.0.0.0/0", "::/0", "::ffff:10.0.0.7", "fe80::1%eth0"]
)
def test_balancers_are_networks_and_not_everybody(tmp_path: Path, given: str) -> None:
    """A balancer says which client it is: with every address, anybody could."""
    text = MINIMAL.replace("plain_http", f'proxy_protocol_from = ["{given}"]\nplain_http')
    assert place(only(tmp_path, text)).startswith("listeners[0].proxy_protocol_from")
