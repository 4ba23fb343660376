import pytest

from proxy.errors import Unavailable
from proxy.gate.view_quota import ViewQuota
from proxy.model import Reason


def test_each_principal_and_all_together_have_a_bound() -> None:
    """Nobody holds more than their share, all together no more than the whole, and who is turned
    away may come again in a second.
    """
    views = ViewQuota(total=3, each=2)
    for name in ("a", "a", "b"):
        views.take(name)
    for name in ("a", "b", "c"):
        with pytest.raises(Unavailable) as caught:
            views.take(name)
        assert (caught.value.reason, caught.value.retry_after) == (Reason.OVERLOADED, 1)


def test_what_is_given_back_can_be_taken_again() -> None:
    """The count of a principal ends with its last view: nothing stays of whoever has gone."""
    views = ViewQuota(total=2, each=1)
    for _ in range(100):
        views.take("a")
        with pytest.raises(Unavailable):
            views.take("a")
        views.take("b")
        views.give_back("a")
        views.give_back("b")
    assert views._held == {}
