"""Which paths another user could change, and which files another user could read."""

import errno
import os
import struct
from pathlib import Path

import pytest

from proxy.common.file_trust import Trust, is_secret, weak_owners
from tests.support.other_user import NOBODY, as_root

TRUST = Trust.of_this_process()


def weak(path: Path) -> dict[str, str]:
    """Return the weaknesses of a path below its own temporary directory, by name."""
    return {found.path.name: found.message for found in weak_owners(path, TRUST)}


def test_a_file_of_ones_own_in_a_sticky_directory_is_trusted(tmp_path: Path) -> None:
    """Temporary directories are below /tmp, which every user can write, with the sticky bit."""
    (tmp_path / "file").touch()
    assert weak(tmp_path / "file") == {}
    assert weak(tmp_path / "missing" / "file") == {}


@as_root
@pytest.mark.parametrize("name", ["file", "in", "above"])
def test_each_component_must_belong_to_root_or_the_process(tmp_path: Path, name: str) -> None:
    """The owner of a file can change its mode, the owner of a directory what is in it."""
    path = tmp_path / "above" / "in" / "file"
    path.parent.mkdir(parents=True)
    path.touch()
    given = {"file": path, "in": path.parent, "above": path.parent.parent}[name]
    os.chown(given, NOBODY, -1)
    found = weak(path)
    assert list(found) == [name]
    assert "belongs to" in found[name]


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o733])
def test_every_directory_above_must_be_closed_to_writers(tmp_path: Path, mode: int) -> None:
    """In a directory that others can write, they can replace the file, whatever its own mode."""
    path = tmp_path / "open" / "deeper" / "file"
    path.parent.mkdir(parents=True)
    path.touch(0o600)
    (tmp_path / "open").chmod(mode)
    assert "other users can replace" in weak(path)["open"]
    (tmp_path / "open").chmod(0o1777)
    assert weak(path) == {}


def test_what_is_missing_must_not_be_another_users_to_make(tmp_path: Path) -> None:
    """A key set or an issuer's directory that somebody else makes later would sign anybody in. A
    sticky directory protects what is in it, and nothing that is not.
    """
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    for path in (shared / "issuer", shared / "issuer" / "jwks.json"):
        assert "other users can make it" in weak(path)["issuer"]
    link = tmp_path / "link"
    link.symlink_to(shared / "issuer")
    assert "other users can make it" in weak(link)["issuer"]
    (shared / "issuer").mkdir(0o700)
    assert weak(shared / "issuer" / "jwks.json") == {}
    shared.chmod(0o1755)
    assert weak(shared / "missing") == {}


@as_root
def test_a_group_with_other_members_is_others(tmp_path: Path) -> None:
    """A group of one's own (umask 002) is not."""
    path = tmp_path / "shared" / "file"
    path.parent.mkdir()
    path.touch()
    path.parent.chmod(0o775)
    assert weak(path) == {}
    os.chown(path.parent, 0, NOBODY)
    assert list(weak(path)) == ["shared"]


def test_a_link_is_followed_to_what_it_means(tmp_path: Path) -> None:
    """The directories behind a link count as those before it, also behind a relative one."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "file").touch()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "link").symlink_to("../open/file")
    (tmp_path / "absolute").symlink_to(tmp_path / "open" / "file")
    assert list(weak(tmp_path / "closed" / "link")) == ["open"]
    assert list(weak(tmp_path / "absolute")) == ["open"]


@as_root
def test_a_link_that_another_user_planted_is_named(tmp_path: Path) -> None:
    """It leads wherever its owner likes, though the target is root's."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.chown(tmp_path / "link", NOBODY, NOBODY, follow_symlinks=False)
    assert list(weak(tmp_path / "link")) == ["link"]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    """As the kernel does, the walk gives up after some forty links."""
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert weak(tmp_path / "a") == {}


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601])
def test_a_secret_is_closed_to_others(tmp_path: Path, mode: int) -> None:
    """Any bit for others is one too many."""
    path = tmp_path / "key"
    path.touch()
    path.chmod(mode)
    assert not is_secret(path, TRUST)
    path.chmod(0o600)
    assert is_secret(path, TRUST)


def test_a_secret_may_be_read_by_the_groups_of_the_process(tmp_path: Path) -> None:
    """As systemd, Debian's ssl-cert and fsGroup of Kubernetes mount them."""
    path = tmp_path / "key"
    path.touch()
    path.chmod(0o440)
    assert is_secret(path, TRUST)


@as_root
@pytest.mark.parametrize(("mode", "member", "secret"), [
    (0o640, False, False),
    (0o640, True, True),
    (0o660, True, False),
])  # fmt: skip
def test_a_group_may_read_a_secret_only_if_the_process_is_in_it(
    tmp_path: Path, mode: int, member: bool, secret: bool
) -> None:
    """A group with other members may read, never write."""
    path = tmp_path / "key"
    path.touch()
    os.chown(path, 0, NOBODY)
    path.chmod(mode)
    trust = Trust(TRUST.users, TRUST.groups | {NOBODY} if member else TRUST.groups)
    assert is_secret(path, trust) == secret


@pytest.mark.parametrize(("tag", "rights", "closed", "secret"), [
    (2, 7, False, False),
    (8, 7, False, False),
    (2, 4, True, False),
    (8, 4, True, False),
    (2, 0, True, True),
])  # fmt: skip
def test_an_access_control_list_counts(
    tmp_path: Path, tag: int, rights: int, closed: bool, secret: bool
) -> None:
    """It shows as bits of the group, which is the process's own: another user or group that it
    names is not.
    """
    path = tmp_path / "open" / "file"
    path.parent.mkdir()
    path.touch()
    entries = [(1, 7, 0), (tag, rights, NOBODY), (4, 0, 0), (0x10, rights, 0), (0x20, 0, 0)]
    if tag == 8:
        entries[1], entries[2] = entries[2], entries[1]
    data = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", data)
        os.setxattr(path.parent, "system.posix_acl_access", data)
    except OSError as error:
        assert error.errno == errno.ENOTSUP
        pytest.skip("the file system has no access control lists")
    assert is_secret(path, TRUST) == secret
    assert (weak(path) == {}) == closed


@as_root
def test_root_trusts_the_user_of_the_service_whose_files_it_checks(tmp_path: Path) -> None:
    """`check` run by root does not report what the service owns, nor what its group may read."""
    os.chown(tmp_path, NOBODY, NOBODY)
    trust = TRUST.with_owner_of(tmp_path)
    assert NOBODY in trust.users
    assert NOBODY in trust.groups
    assert list(weak_owners(tmp_path, trust)) == []
    assert TRUST.with_owner_of(tmp_path / "missing") == TRUST
