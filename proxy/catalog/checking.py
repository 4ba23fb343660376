"""The arguments of one call, against the catalog: named by their positions, and of the types that
it says.

`check_arguments` is on the path of every call, whatever the wire it came on. Its refusals name the
method and the argument, never the value.
"""

from collections.abc import Mapping, Sequence

from proxy.catalog.loading import ARGUMENT_NAME, LeftOpen, Method, Shape
from proxy.catalog.types import TYPES, without_markup
from proxy.errors import Rejected
from proxy.model import Reason, Value

_SHAPES_KEPT = 64  # of one method; clients of one version have a few


def check_arguments(method: Method, args: Mapping[str, Value]) -> None:
    """Check the arguments of one call.

    Raises `Rejected` (BAD_ARGUMENTS) with one line such as ``add_task: priority must be a finite
    number``.

    Clients send the same arguments in the same order, and mostly null, truth values and texts of
    any kind. What names and Python types decide is therefore decided once for a `shape` of
    arguments; the values that they leave open are looked at in every call: looked up, where good
    ones are known, else asked about. `check_each` is the rule, and says the same.
    """
    shape = (tuple(args), tuple(map(type, args.values())))
    left_open = method.shapes.get(shape)
    if left_open is None:
        check_each(method, args)
        _learn(method, shape)
    else:
        for name, known, accepts, line in left_open:
            value = args[name]
            if value not in known and not accepts(value):
                raise _bad(method, line)
        if method.starts_with:
            _check_starts(method, args)


def check_each(method: Method, args: Mapping[str, Value]) -> None:
    """As `check_arguments`, one argument after the other and nothing remembered."""
    checks = method.checks
    for name, value in args.items():
        check = checks.get(name)
        if check is None:
            _check_extra(method, name, value)
        elif value is None:
            if not check[1]:
                raise _bad(method, f"{name} must be {check[0].phrase}, not null")
        elif not check[0].accepts(value):
            raise _bad(method, f"{name} must be {check[0].phrase}")
    for name in method.required:
        if name not in args:
            raise _bad(method, f"{name} is missing")
    _check_starts(method, args)


def _check_starts(method: Method, args: Mapping[str, Value]) -> None:
    for longer, start in method.starts_with:
        if longer in args and start in args:
            whole, prefix = args[longer], args[start]
            if type(prefix) is not str or type(whole) is not str or not prefix or whole == prefix:
                continue
            if not whole.startswith((prefix + "_", prefix + "(")):
                raise _bad(method, f"{longer} must start with {start}")


def _learn(method: Method, shape: Shape) -> None:
    """Remember which values remain to be looked at in arguments of a `shape` that has just passed.

    Only with names that the catalog has: what callers invent would be kept at the length and in the
    number of their choice.
    """
    names, kinds = shape
    if not method.checks.keys() >= set(names):
        return
    if len(method.shapes) >= _SHAPES_KEPT:
        method.shapes.clear()
    left_open: list[LeftOpen] = []
    for name, kind in zip(names, kinds, strict=True):
        wanted = method.checks[name][0]
        # a null has just passed, so it may stand there
        if kind is not type(None) and kind not in wanted.settled:
            left_open.append(
                (
                    name,
                    wanted.known.get(kind, ()),
                    wanted.accepts,
                    f"{name} must be {wanted.phrase}",
                )
            )
    method.shapes[shape] = tuple(left_open)


def name_arguments(method: Method, values: Sequence[Value]) -> dict[str, Value]:
    """Name the arguments of a call by position, in the catalog's order. Raises `Rejected` when
    there are too many.
    """
    if len(values) > len(method.names):
        raise _bad(method, f"takes at most {len(method.names)} arguments by position")
    return dict(zip(method.names, values))  # noqa: B905  (not strict, as some may be left out; to say so takes 0.3 us)


def disarm_markup(method: Method, args: dict[str, Value]) -> dict[str, Value]:
    """Make markup into text in the arguments that a page will show through ``innerHTML`` (type
    `markup-free`).

    A caller that skips this has such a call refused by `check_arguments`: safe, and a failed task
    for a worker that put the ``repr`` of an object into its status message. Returns `args` itself
    when there is nothing to change.
    """
    for name in method.disarmed:
        if name in args:
            value = args[name]
            text = without_markup(value)
            if text is not value:
                args = {**args, name: text}
    return args


def _check_extra(method: Method, name: str, value: Value) -> None:
    safe = _shown(name)
    if method.each_extra is not None:
        if not TYPES["resource"].accepts(name):
            raise _bad(method, "every name must be " + TYPES["resource"].phrase)
        if value is None or not TYPES[method.each_extra].accepts(value):
            raise _bad(method, f"{safe} must be {TYPES[method.each_extra].phrase}")
    elif not method.extra:
        raise _bad(method, f"{safe} is not one of its arguments")
    elif not TYPES["json"].accepts(value):
        raise _bad(method, f"{safe} must be {TYPES['json'].phrase}")


def _shown(name: str) -> str:
    return name if ARGUMENT_NAME.fullmatch(name) else "an argument with an unusual name"


def _bad(method: Method, text: str) -> Rejected:
    return Rejected(Reason.BAD_ARGUMENTS, f"{method.name}: {text}")
