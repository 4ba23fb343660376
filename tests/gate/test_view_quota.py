import pytest

from proxy.errors import Unavailable
from proxy.gate.view_quota import ViewQuota
from proxy.model import Reason


def test_each_principal_and_all_together_have_a_bound() -> None:
    """No principal holds more than its share, all together no more than the total; a refused one
    may come again in a second.
    """
    quota = ViewQuota(total=3, per_principal=2)
    for name in ("a", "a", "b"):
        quota.acquire(name)
    for name in ("a", "b", "c"):
        with pytest.raises(Unavailable) as caught:
            quota.acquire(name)
        assert (caught.value.reason, caught.value.retry_after) == (Reason.OVERLOADED, 1)


def test_a_released_slot_can_be_acquired_again() -> None:
    """The count of a principal ends with its last read, so that none is left of one who has gone."""
    quota = ViewQuota(total=2, per_principal=1)
    for _ in range(100):
        first = quota.acquire("a")
        with pytest.raises(Unavailable):
            quota.acquire("a")
        second = quota.acquire("b")
        first.release()
        second.release()
        assert quota.in_use == 0


def test_a_slot_is_released_once() -> None:
    """Its owner may change; a second release by the former owner takes nothing from others."""
    quota = ViewQuota(total=2, per_principal=2)
    first = quota.acquire("a")
    quota.acquire("a")
    first.release()
    first.release()
    assert quota.in_use == 1
