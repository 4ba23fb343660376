"""Shared by the edge's tests: both event loops, and a check of the loop after each test."""

from collections.abc import Mapping

import pytest

from tests.support.loops import LoopFactory, check_loop, loop_factories

_check_loop = pytest.fixture(autouse=True)(check_loop)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, LoopFactory]:
    """Run a test on asyncio's loop, and on uvloop's too if it is marked with `both_loops`."""
    return loop_factories(item)
