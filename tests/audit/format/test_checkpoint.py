from base64 import b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proxy.audit.format.checkpoint import (
    BadCheckpointError,
    check,
    complete_length,
    format_key,
    key_id,
    parse,
    parse_keys,
    split,
)
from proxy.audit.writing.signer import Signer

KEY = Ed25519PrivateKey.from_private_bytes(b"7" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
NOTE = Signer("callgate/gate", KEY).sign(12, b"r" * 32)


def test_a_note_has_the_form_of_the_specification() -> None:
    """Three lines of text, an empty line, and a signature line with the key's id before the
    signature.
    """
    text = f"callgate/gate\n12\n{b64encode(b'r' * 32).decode()}\n"
    signature = b64encode(key_id("callgate/gate", PUBLIC) + KEY.sign(text.encode())).decode()
    assert NOTE.decode() == f"{text}\n— callgate/gate {signature}\n"
    found = check(NOTE, [PUBLIC])
    assert (found.origin, found.size, found.root) == ("callgate/gate", 12, b"r" * 32)


def test_a_public_example_is_read() -> None:
    """The example of the tlog-checkpoint specification parses."""
    note = (
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
        "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5"
        "/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    )
    assert parse(note.encode()).size == 20852163


def test_every_changed_byte_is_noticed() -> None:
    """A note with a byte changed, left out or added is refused."""
    for at in range(len(NOTE)):
        for changed in (
            NOTE[:at] + bytes([NOTE[at] ^ 1]) + NOTE[at + 1 :],
            NOTE[:at] + NOTE[at + 1 :],
            NOTE[:at],
        ):
            with pytest.raises(BadCheckpointError):
                check(changed, [PUBLIC])


def test_other_keys_and_names_do_not_count() -> None:
    """A signature by another key, or by the same key under another name, is not accepted."""
    other = Ed25519PrivateKey.from_private_bytes(b"8" * 32)
    with pytest.raises(BadCheckpointError, match="known key"):
        check(Signer("callgate/gate", other).sign(12, b"r" * 32), [PUBLIC])
    with pytest.raises(BadCheckpointError):
        check(NOTE.replace("— callgate/gate".encode(), "— callgate/evil".encode()), [PUBLIC])


def test_other_signatures_and_extension_lines_are_ignored() -> None:
    """Signatures of witnesses may precede or follow, and the text may have extension lines."""
    text, _, line = NOTE.partition(b"\n\n")
    witness = "— witness.example/w AAAAAAAA\n".encode()
    assert check(text + b"\n\n" + witness + line + witness, [PUBLIC]).size == 12
    longer = text + b"\nextension\n"
    signed = (
        longer
        + b"\n\xe2\x80\x94 callgate/gate "
        + b64encode(key_id("callgate/gate", PUBLIC) + KEY.sign(longer))
        + b"\n"
    )
    assert check(signed, [PUBLIC]).size == 12


@pytest.mark.parametrize(
    "text",
    [
        "callgate/gate\n012\n{}\n",
        "callgate/gate\n-1\n{}\n",
        "call gate\n1\n{}\n",
        "a+b\n1\n{}\n",
        "a\n١\n{}\n",
        "a\n1\nAAAA\n",
        "a\n1\n!!\n",
    ],
)
def test_only_one_spelling_is_a_checkpoint(text: str) -> None:
    """Leading zeros, signs, other digits, spaces in names and other lengths are refused."""
    body = text.format(b64encode(b"r" * 32).decode())
    with pytest.raises(BadCheckpointError):
        parse(f"{body}\n— a AAAA\n".encode())


def test_keys_round_trip() -> None:
    """A formatted key parses; one with a changed name, id or length does not."""
    line = format_key("callgate", PUBLIC)
    assert parse_keys(f"{line}\n{line}\n") == [("callgate", PUBLIC)] * 2
    for bad in (
        "",
        "x",
        line.replace("callgate", "evilgate"),
        line[:-4],
        line[:-1],  # base64 of no whole length
        "callgate+00000000+" + line.rpartition("+")[2],
    ):
        with pytest.raises(BadCheckpointError):
            parse_keys(bad)


def test_files_of_notes_are_split() -> None:
    """Notes come back one by one; `complete_length` leaves out a torn last one."""
    two = Signer("callgate/gate", KEY).sign(13, b"s" * 32)
    data = NOTE + b"\n" + two + b"\n"
    assert list(split(data)) == [NOTE, two] and complete_length(data) == len(data)
    for at in range(len(NOTE) + 2, len(data)):
        assert list(split(data[:at])) == [NOTE, data[len(NOTE) + 1 : at]]
        assert complete_length(data[:at]) == len(NOTE) + 1
