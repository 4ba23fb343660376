import json

import pytest

from proxy.catalog.model import Argument, Method
from proxy.model import Call, Principal
from proxy.policy.context_reads import TASK_KEY
from proxy.policy.entities import action_entities, request_of, user_entities
from proxy.policy.schema import Action

ACTION = Action(Method("m", "work", (Argument("family", "family"), Argument("n", "integer"))))
ANN = Principal("https://i/", "i", 'ann"]', ("a", "b"), ("g",), agent=True)


def test_a_principal_is_in_its_roles() -> None:
    """Each role is an entity too, and a hostile name stays a value."""
    a, b, user = json.loads(user_entities(ANN))
    assert [role["uid"] for role in (a, b)] == user["parents"]
    assert user["uid"] == {"type": "User", "id": 'i|ann"]'}
    assert user["attrs"] == {"issuer": "https://i/", "subject": 'ann"]', "groups": ["g"]}


def test_a_method_is_in_its_permission() -> None:
    """The permissions are actions without a parent."""
    *permissions, method = action_entities({"m": ACTION})
    assert [one["uid"]["id"] for one in permissions] == ["view", "work", "trigger", "admin"]  # type: ignore[index]  # JSON as plain objects
    assert method["parents"] == [{"type": "Action", "id": "work"}]


def test_a_request_has_the_reads_and_nothing_else() -> None:
    """Arguments that no policy reads are not copied, and absent ones are left out."""
    call = Call("up", "luigi", "m", "work", {"family": "f", "n": None, "other": "x"}, task="t")
    request = request_of(ANN, call, "dep", ACTION, (TASK_KEY, "family", "n"))
    assert request == {
        "principal": {"type": "User", "id": 'i|ann"]'},
        "action": {"type": "Action", "id": "m"},
        "resource": {"type": "Scheduler", "id": "up"},
        "context": {"agent": True, "task": "dep", "args": {"family": "f"}},
    }


def test_a_value_of_another_type_makes_no_request() -> None:
    """Cedar would judge something else than the schema says."""
    call = Call("up", "luigi", "m", "work", {"n": True})
    with pytest.raises(TypeError, match="n is not integer"):
        request_of(ANN, call, None, ACTION, ("n",))
