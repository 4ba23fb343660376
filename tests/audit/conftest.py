from collections.abc import Iterator

import pytest

from tests.support import audit


@pytest.fixture(params=["loop", "thread"])
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Which path batches take through a `FailingDisk`: the event loop's or the thread's."""
    audit.PATHS["loop"] = request.param == "loop"
    yield request.param
    audit.PATHS["loop"] = True
