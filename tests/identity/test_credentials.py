import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Rejected
from proxy.identity.credentials import TOKEN_LIMIT, read_credential
from proxy.model import Credentials, Reason

SESSION = b"__Host-callgate=abc"


def basic(user_and_password: bytes) -> bytes:
    """Return an Authorization value of the Basic scheme."""
    return b"Basic " + base64.b64encode(user_and_password)


@pytest.mark.parametrize(
    "authorization",
    [
        b"Bearer abc.def.ghi",
        b"bearer abc.def.ghi",
        b"BEARER abc.def.ghi",
        basic(b"token:abc.def.ghi"),
        basic(b":abc.def.ghi"),
        basic("jürgen:abc.def.ghi".encode()),
        basic(b"any name at all:abc.def.ghi"),
        b"bAsIc " + base64.b64encode(b"x:abc.def.ghi"),
    ],
)
def test_both_schemes_carry_the_token(authorization: bytes) -> None:
    """Bearer, and Basic with any user name, carry the token unchanged."""
    assert read_credential(Credentials(authorization)) == "abc.def.ghi"
    assert (
        read_credential(
            Credentials(authorization, b"theme=dark; __Host-other=1; x__Host-callgate=2")
        )
        == "abc.def.ghi"
    )


@pytest.mark.parametrize(
    ("authorization", "cookie", "reason"),
    [
        (None, None, Reason.NO_CREDENTIAL),
        (None, b"theme=dark", Reason.NO_CREDENTIAL),
        (None, SESSION, Reason.NO_CREDENTIAL),
        (None, SESSION + b"; " + SESSION, Reason.TWO_CREDENTIALS),
        (b"Bearer abc", SESSION, Reason.TWO_CREDENTIALS),
        (b"Bearer abc", b"a=b; " + SESSION, Reason.TWO_CREDENTIALS),
        (b"Bearer abc", b"a=b;" + SESSION, Reason.TWO_CREDENTIALS),
        (b"Bearer abc", b"__Host-callgate", Reason.TWO_CREDENTIALS),
        (b"", SESSION, Reason.TWO_CREDENTIALS),
        (b"Bearer abc, Basic eDp5", None, Reason.TWO_CREDENTIALS),
        (b"Bearer abc,Bearer def", None, Reason.TWO_CREDENTIALS),
        (b"Basic eDp5, Bearer abc", None, Reason.TWO_CREDENTIALS),
        (b"Negotiate abc, Bearer def", None, Reason.TWO_CREDENTIALS),
        (b"", None, Reason.BAD_CREDENTIAL),
        (b"Bearer", None, Reason.BAD_CREDENTIAL),
        (b"Bearer ", None, Reason.BAD_CREDENTIAL),
        (b"Bearer  abc", None, Reason.BAD_CREDENTIAL),
        (b" Bearer abc", None, Reason.BAD_CREDENTIAL),
        (b"Bearer abc ", None, Reason.BAD_CREDENTIAL),
        (b"Bearer abc\n", None, Reason.BAD_CREDENTIAL),
        (b"Bearer abc def", None, Reason.BAD_CREDENTIAL),
        (b"Bearer\tabc", None, Reason.BAD_CREDENTIAL),
        (b"Bearer =abc", None, Reason.BAD_CREDENTIAL),
        (b"Bearer ab\xffc", None, Reason.BAD_CREDENTIAL),
        (b"abc.def.ghi", None, Reason.BAD_CREDENTIAL),
        (b'Digest username="x", realm="y"', None, Reason.BAD_CREDENTIAL),
        (b"Bearer " + b"a" * (TOKEN_LIMIT + 1), None, Reason.BAD_CREDENTIAL),
        (b"Bearer " + b"a" * 100_000, None, Reason.BAD_CREDENTIAL),
        (basic(b"nocolon"), None, Reason.BAD_CREDENTIAL),
        (basic(b"user:"), None, Reason.BAD_CREDENTIAL),
        (basic(b"user:abc:def"), None, Reason.BAD_CREDENTIAL),
        (basic(b"user: abc"), None, Reason.BAD_CREDENTIAL),
        (basic(b"user:" + b"a" * (TOKEN_LIMIT + 1)), None, Reason.BAD_CREDENTIAL),
        (b"Basic eDp5=", None, Reason.BAD_CREDENTIAL),
        (b"Basic eDph\nYmM=", None, Reason.BAD_CREDENTIAL),
        (b"Basic eDp5YR==", None, Reason.BAD_CREDENTIAL),
        (b"Basic eDp5YQ", None, Reason.BAD_CREDENTIAL),
        (b"Basic eDp_-w==", None, Reason.BAD_CREDENTIAL),
    ],
)
def test_everything_else_is_refused(
    authorization: bytes | None, cookie: bytes | None, reason: Reason
) -> None:
    """No credential, two of them, and one in any but the strict spelling are refused, each for its
    own reason.
    """
    with pytest.raises(Rejected) as refused:
        read_credential(Credentials(authorization, cookie))
    assert refused.value.reason is reason
    assert refused.value.detail.isascii()


def test_the_longest_token_fits_both_schemes() -> None:
    """A token of exactly the limit is read from Bearer and from Basic."""
    longest = "a" * TOKEN_LIMIT
    assert read_credential(Credentials(b"Bearer " + longest.encode())) == longest
    assert read_credential(Credentials(basic(b"token:" + longest.encode()))) == longest


@given(st.none() | st.binary(max_size=60), st.none() | st.binary(max_size=40))
def test_any_bytes_give_a_token_or_rejected(
    authorization: bytes | None, cookie: bytes | None
) -> None:
    """All bytes give a non-empty ASCII token or one `Rejected`."""
    try:
        found = read_credential(Credentials(authorization, cookie))
    except Rejected as refused:
        assert refused.detail.isascii() and refused.detail.isprintable()
    else:
        assert found and found.isascii() and not any(char.isspace() for char in found)
