"""The largest calls that the default limits allow, of each codec and of each kind of content.

They have as many bytes, or as many elements, as a call may have. With fewer bytes they are the
largest of a size.
"""

import base64
import gzip
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from urllib.parse import quote_plus

FORM = "application/x-www-form-urlencoded"
XML = "text/xml"
BODY_BYTES = 16 << 20
DEPENDENCIES = 100_000
# Elements of a call: a little less than the limit of both codecs.
_ELEMENTS = 290_000
_DECLARATION = '<?xml version="1.0"?>'


@dataclass(frozen=True, slots=True)
class LargeCall:
    """One request: `name` says which codec and content; it is allowed, or refused as `refused`."""

    name: str
    path: str
    content_type: str
    body: bytes
    refused: str = ""
    encoding: str = ""


def task(**more: object) -> dict[str, object]:
    """Return the arguments of an ``add_task``."""
    return {"task_id": "etl.Load_1", "worker": "w1", "family": "etl.Load"} | more


def dependencies(count: int = DEPENDENCIES) -> list[str]:
    """Return ids as luigi makes them."""
    return [f"etl.Extract_2026_12_01_{n:06}_{n * 7919 % 10**10:010x}" for n in range(count)]


def _form(name: str, text: str, *, refused: str = "") -> LargeCall:
    """Return a call whose JSON is `text`, in which only what has to be is escaped."""
    escaped = text.replace("%", "%25").replace("&", "%26").replace("+", "%2B").replace(" ", "+")
    return LargeCall(f"luigi {name}", "/api/add_task", FORM, b"data=" + escaped.encode(), refused)


def _with_argument(written: str, name: str = "x") -> str:
    """Return the JSON of an ``add_task`` with one more argument, which is written already."""
    return f'{json.dumps(task())[:-1]}, "{name}": {written}}}'


def luigi_calls(size: int = BODY_BYTES) -> Iterator[LargeCall]:
    """Yield calls of luigid's own protocol, of at most `size` bytes."""
    room = size - 512

    def fill(item: str, count: int = _ELEMENTS) -> list[str]:
        return [item] * min(count, room // (len(item) + 1))

    ids = dependencies(min(DEPENDENCIES, room // 60))
    yield _form("dependencies", _with_argument(json.dumps(ids), "deps"))
    escaped = quote_plus(json.dumps(task(deps=ids[: len(ids) * 6 // 10]))).encode()
    yield LargeCall("luigi escaped dependencies", "/api/add_task", FORM, b"data=" + escaped)
    yield _form("text", _with_argument(json.dumps("x" * room)))
    yield _form("quoted text", _with_argument(json.dumps("\\" * (room // 2))))
    yield _form("escaped letters", _with_argument(json.dumps("\u00e9" * (room // 6))))
    yield _form("percent signs", _with_argument(json.dumps("%" * (room // 3))))
    wide = "\U0001f600" * (room // 4)
    yield _form("wide letters", _with_argument(json.dumps(wide, ensure_ascii=False)))
    yield _form("markup", _with_argument(json.dumps({"a": "<b" * (room // 2)}), "params"))
    members = {f"p{n}": n for n in range(min(90_000, room // 16))}
    yield _form("parameters", _with_argument(json.dumps(members), "params"))
    yield _form(
        "arguments", json.dumps(task(**{f"x{n}": n for n in range(min(90_000, room // 16))}))
    )
    yield _form("integer", _with_argument("7" * room), refused="malformed-call")
    integers = ",".join(fill("9" * 4_000))
    yield _form("integers", _with_argument(f"[{integers}]"))
    yield _form("numbers", _with_argument(f"[{','.join(fill('1234.5e-3'))}]"))
    yield _form("infinities", _with_argument(f"[{','.join(fill('Infinity'))}]"))
    deep = fill("[" * 30 + "]" * 30, _ELEMENTS // 31)
    yield _form("nested lists", _with_argument(f"[{','.join(deep)}]"))
    levels = min(140_000, room // 2)
    too_deep = _with_argument("[" * levels + "]" * levels)
    yield _form("too deep", too_deep, refused="call-too-complex")
    yield _form("blanks", json.dumps(task())[:-1] + " " * (room // 2) + "}")


def _call(name: str, path: str, method: str, params: str, *, refused: str = "") -> LargeCall:
    text = (
        f"{_DECLARATION}<methodCall><methodName>{method}</methodName>"
        f"<params>{params}</params></methodCall>"
    )
    return LargeCall(name, path, XML, text.encode(), refused)


def _struct(**members: str) -> str:
    inner = [f"<member><name>{n}</name><value>{v}</value></member>" for n, v in members.items()]
    return f"<struct>{''.join(inner)}</struct>"


def _array(items: Iterable[str]) -> str:
    inner = "".join(f"<value>{item}</value>" for item in items)
    return f"<array><data>{inner}</data></array>"


def _add_task(
    name: str, path: str, value: str, *, argument: str = "x", refused: str = ""
) -> LargeCall:
    """Return an ``add_task`` with one large argument, for luigid or for a server of one's own."""
    members = {n: f"<string>{v}</string>" for n, v in task().items()} | {argument: value}
    if path == "/RPC2":
        params = f"<param><value>{_struct(**members)}</value></param>"
        return _call(f"bridge {name}", path, "add_task", params, refused=refused)
    values = [members["task_id"], members["worker"], members["family"], "<int>1</int>"]
    values += ["<boolean>1</boolean>"]
    values += ["<struct></struct>", value] if argument == "deps" else [_struct(x=value)]
    params = "".join(f"<param><value>{each}</value></param>" for each in values)
    return _call(f"server {name}", path, "queue.add_task", params, refused=refused)


def xmlrpc_calls(path: str, size: int = BODY_BYTES) -> Iterator[LargeCall]:
    """Yield calls by XML-RPC: to luigid at ``/RPC2``, or to a server of one's own elsewhere."""
    room = size - 1_024
    not_json = "bad-arguments" if path == "/RPC2" else ""

    def fill(item: str, elements: float) -> list[str]:
        return [item] * min(int(_ELEMENTS / elements), room // (len(item) + 15))

    ids = [f"<string>{each}</string>" for each in dependencies(min(DEPENDENCIES, room // 80))]
    yield _add_task("dependencies", path, _array(ids), argument="deps")
    yield _add_task("text", path, f"<string>{'x' * room}</string>")
    references = "&#60;" * min(2 * _ELEMENTS - 500, room // 5)
    yield _add_task("references", path, f"<string>{references}</string>")
    yield _add_task("wide letters", path, "<string>" + "\U0001f600" * (room // 4) + "</string>")
    yield _add_task("CDATA", path, f"<string><![CDATA[{']' * (room // 2)}]]></string>")
    yield _add_task("line ends", path, "<string>" + "\r\n" * (room // 2) + "</string>")
    empty = "<value/>" * min(2 * _ELEMENTS - 500, room // 8)
    yield _add_task("empty values", path, f"<array><data>{empty}</data></array>")
    yield _add_task("integers", path, _array(fill("<i4>2147483647</i4>", 2.01)))
    yield _add_task("doubles", path, _array(fill("<double>1234567.25</double>", 2.01)))
    members = {f"m{n}": f"<i8>{n}</i8>" for n in range(min(_ELEMENTS // 4 - 50, room // 64))}
    yield _add_task("members", path, _struct(**members))
    deep = "<array><data><value>" * 25 + "</value></data></array>" * 25
    yield _add_task("nested arrays", path, _array(fill(deep, 77)))
    noise = base64.b64encode(random.Random(1).randbytes(room // 4 * 3)).decode()
    yield _add_task("base64", path, f"<base64>{noise}</base64>", refused=not_json)
    dates = fill("<dateTime.iso8601>20261201T00:00:00</dateTime.iso8601>", 2.01)
    yield _add_task("dates", path, _array(dates), refused=not_json)
    text = f"<param><value><string>{'x' * room}</string></value></param>"
    yield _call("unknown method", path, "nothing", text, refused="unknown-method")
    digits = f"<param><value><int>{'1' * room}</int></value></param>"
    yield _call("integer of many digits", path, "nothing", digits, refused="malformed-call")
    yield _batch(path, room)


def _batch(path: str, room: int) -> LargeCall:
    """Return a hundred calls in one."""
    method, name = ("ping", "bridge batch") if path == "/RPC2" else ("queue.ping", "server batch")
    entries = []
    for _ in range(100):
        text = f"<string>{'x' * (room // 100 - 700)}</string>"
        value = _struct(worker="<string>w1</string>", x=text) if method == "ping" else text
        params = f"<array><data><value>{value}</value></data></array>"
        entries.append(_struct(methodName=f"<string>{method}</string>", params=params))
    return _call(name, path, "system.multicall", f"<param><value>{_array(entries)}</value></param>")


def zipped(call: LargeCall) -> LargeCall:
    """Return the same call in gzip."""
    body = gzip.compress(call.body, 6)
    too_much = len(call.body) > max(1 << 20, 100 * len(body))
    refused = "body-too-large" if too_much else call.refused
    name = f"{call.name}, gzip"
    return replace(call, name=name, body=body, encoding="gzip", refused=refused)


def all_calls(server: str, size: int = BODY_BYTES) -> Iterator[LargeCall]:
    """Yield every call; `server` is the path of the XML-RPC server, luigid is at ``/``."""
    yield from luigi_calls(size)
    for path in ("/RPC2", server):
        for call in xmlrpc_calls(path, size):
            yield call
            if call.name.endswith(("dependencies", "base64", " text")):
                yield zipped(call)
