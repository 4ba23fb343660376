from collections.abc import Iterator

import pytest

from tests.support import audit as made


@pytest.fixture(params=["loop", "thread"])
def road(request: pytest.FixtureRequest) -> Iterator[str]:
    """Which road batches take through a `FailingDisk`: begun on the event loop, or handed to the
    thread.
    """
    made.ROADS["loop"] = request.param == "loop"
    yield request.param
    made.ROADS["loop"] = True
