"""``python -m proxy``: the command `callgate`, without its installed script."""

from proxy.cli.main import main

main()
