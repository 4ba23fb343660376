"""Where the shipped policies are: inside the installed package, or beside it in a checkout."""

from pathlib import Path

import proxy
from proxy.errors import ConfigError, Problem


def shipped_policies() -> Path:
    """Give the directory with the shipped policies, roles and catalogs; raises `ConfigError` when
    the installation lacks it.
    """
    package = Path(proxy.__file__).parent
    for place in (package / "shipped" / "policies", package.parent / "policies"):
        if (place / "roles.toml").is_file():
            return place
    raise ConfigError(
        [
            Problem(
                str(package),
                "the shipped policies are missing from the installation",
                "Install callgate again.",
            )
        ]
    )
