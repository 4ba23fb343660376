"""Enough file descriptors are kept back from clients that the gate can go on working."""

import resource

import pytest
from structlog.testing import capture_logs

from proxy.errors import ConfigError
from proxy.runtime.file_descriptors import max_clients


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The limits of a process, soft and hard, as it would see them."""
    both = [1024, 65536]

    def change(which: int, to: tuple[int, int]) -> None:
        both[:] = to

    monkeypatch.setattr(resource, "getrlimit", lambda which: tuple(both))
    monkeypatch.setattr(resource, "setrlimit", change)
    return both


def test_the_soft_limit_is_raised_to_the_hard_one(limits: list[int]) -> None:
    """Shells and systemd give 1024 at first and allow far more: what the settings promise must not
    depend on it.
    """
    with capture_logs() as logs:
        assert max_clients(10_000, [64, 64]) == 10_000
    assert (limits, logs) == ([65536, 65536], [])


def test_where_the_limit_cannot_be_raised_it_is_counted_with(
    limits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filter of system calls may forbid it: the gate serves with what it has."""

    def forbidden(which: int, to: tuple[int, int]) -> None:
        raise PermissionError(1, "made to fail")

    monkeypatch.setattr(resource, "setrlimit", forbidden)
    assert max_clients(10_000, [64]) == 1024 - 64 - 64
    assert limits == [1024, 65536]


def test_an_unlimited_process_has_all_the_places_it_wants(limits: list[int]) -> None:
    """No limit is no bound."""
    limits[1] = resource.RLIM_INFINITY
    assert max_clients(10_000, [64]) == 10_000


def test_clients_get_what_is_left_and_the_operator_is_told(limits: list[int]) -> None:
    """The journal and each upstream have theirs first."""
    limits[1] = 1024
    with capture_logs() as logs:
        assert max_clients(10_000, [64, 100]) == 1024 - 64 - 164
        assert max_clients(100, [64, 100]) == 100
    assert [(line["log_level"], line["open_files"], line["clients"]) for line in logs] == [
        ("warning", 1024, 796)
    ]


def test_a_process_with_too_few_does_not_start(limits: list[int]) -> None:
    """A gate that would serve nobody says what to change."""
    limits[1] = 140
    with pytest.raises(ConfigError) as caught:
        max_clients(10_000, [64])
    [problem] = caught.value.problems
    assert "the limit is 140" in problem.message
    assert "LimitNOFILE" in problem.hint
