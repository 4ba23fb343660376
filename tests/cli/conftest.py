from pathlib import Path

import pytest

from tests.support.installation import install


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """Make an installation in which nothing is wrong."""
    return install(tmp_path)
