"""The shipped policies: inside the installed package, or next to it in a checkout."""

from pathlib import Path

import proxy
from proxy.errors import ConfigError, Problem


def shipped_policies() -> Path:
    """Return the directory of the shipped policies, roles and catalogs.

    Raises:
        ConfigError: the installation lacks it.

    """
    package = Path(proxy.__file__).parent
    for directory in (package / "shipped" / "policies", package.parent / "policies"):
        if (directory / "roles.toml").is_file():
            return directory
    message = "the shipped policies are missing from the installation"
    raise ConfigError([Problem(str(package), message, "Install callgate again.")])
