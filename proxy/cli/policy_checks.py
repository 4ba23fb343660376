"""Checks of catalogs, roles and policies: they are loaded as `serve` would load them."""

from collections.abc import Iterator

from proxy.catalog.loading import load_catalog
from proxy.catalog.model import Catalog
from proxy.config.loading import PartialSettings
from proxy.errors import ConfigError, Problem
from proxy.policy.load import load_policies

_SHOWN = 8  # names of unclassified methods in the warning


def check_policies(settings: PartialSettings) -> Iterator[Problem]:
    """Yield every problem of the policy directory, and of upstreams whose catalog does not fit."""
    if settings.policy is None:
        return
    directory = settings.policy.directory
    known: dict[str, Catalog | None] = {}
    for path in sorted((directory / "catalogs").glob("*.toml")):
        try:
            known[path.stem] = catalog = load_catalog(path)
        except ConfigError as error:
            known[path.stem] = None
            yield from error.problems
        else:
            yield from _count_unclassified(path.name, catalog)
    catalogs: dict[str, Catalog] = {}
    for number, upstream in enumerate(settings.upstreams):
        location = settings.locate(("upstreams", number, "catalog"))
        if upstream is None:
            continue
        if upstream.catalog and upstream.catalog not in known:
            message = f"{directory / 'catalogs' / upstream.catalog}.toml does not exist"
            yield Problem(location, message, f"There are: {', '.join(known) or 'none'}.")
        elif used_catalog := known.get(upstream.catalog):
            catalogs[upstream.name] = used_catalog
            if used_catalog.protocol != upstream.protocol:
                message = f"is a catalog for {used_catalog.protocol}, not for {upstream.protocol}"
                yield Problem(location, message, "Name a catalog of the upstream's protocol.")
    if None in known.values():
        return  # a policy that names a method of a broken catalog would be blamed for it
    used = {upstream.catalog for upstream in settings.upstreams if upstream}
    unused = [catalog for name, catalog in known.items() if catalog and name not in used]
    issuers = {issuer.name for issuer in settings.issuers if issuer}
    if settings.local_issuer is not None:
        issuers.add("local")
    try:
        load_policies(directory, catalogs, unused=unused, issuers=issuers)
    except ConfigError as error:
        yield from error.problems


def _count_unclassified(file: str, catalog: Catalog) -> Iterator[Problem]:
    """Yield a warning if methods of a catalog have no permission, and are denied for that."""
    names = sorted(catalog.unclassified)
    if not names:
        return
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    total = len(names) + len(catalog.methods)
    message = f"{len(names)} of {total} methods are unclassified and denied: {shown}"
    hint = "Set permission to view, work, trigger or admin for those to be called."
    yield Problem(f"catalogs/{file}", message, hint, warning=True)
