"""Plain data as JSON and back, so that results of an answer cross to the judge without a class of the answer's.

Only the content of plain types crosses: a simple subclass of int or list arrives as int or list. Anything else, such as
a class with its own `__eq__`, arrives as `Opaque`, which equals nothing but itself. Decoding trusts nothing: it builds
plain values only.
"""

from __future__ import annotations

import base64
import collections
import hashlib
import marshal
import sys
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from types import ModuleType
from typing import Any

ATOMS = {type(None), bool, int, float, str}
"""Types that JSON carries as they are. NaN and infinities too, as Python's JSON writes them."""
LARGEST_INT = 10**4000
"""Larger integers travel as hexadecimal text, because Python limits the digits of decimal text."""
MANY_ITEMS = 50_000
DIGEST_STEP = 4096
"""Items that are written at a time."""
MARSHAL_VERSION = 2
"""The last version of marshal's form that depends on the values alone. It is written here and never read."""
CONTENT_METHODS = (
    *("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__len__", "__iter__", "__getitem__", "__contains__"),
    *("__bool__", "__int__", "__index__", "__float__"),
)
"""A subclass of a plain type that defines one of these is no plain data."""
MAPPINGS: dict[str, Callable[[dict[Any, Any]], dict[Any, Any]]] = {
    "Counter": collections.Counter,
    "OrderedDict": collections.OrderedDict,
}
ARRAY_KINDS = "biufcUO"
"""Kinds of numpy's types that are carried: booleans, numbers, text and objects."""


class Opaque:
    """A result that is not plain data. It equals only itself."""

    def __init__(self, name: str) -> None:
        self.name = name
        """The type's name, as the answer's process gave it."""

    def __repr__(self) -> str:
        return f"<{self.name}>"


class HeldFunction:
    """A function that stays in the answer's process."""

    def __init__(self, handle: int) -> None:
        self.handle = handle


class HeldIterator(HeldFunction):
    """An iterator that stays in the answer's process."""


class HeldResult(HeldFunction):
    """A large result that stays in the answer's process until it is asked for."""

    def __init__(self, handle: int, digest: str) -> None:
        super().__init__(handle)
        self.digest = digest
        """What `digest` returns for it."""


def is_large(value: object) -> bool:
    """True if a list or tuple has so many items that its digest should go before it."""
    if type(value) not in (list, tuple):
        return False
    items: list[Any] = value  # type: ignore[assignment]
    return len(items) + sum(len(item) for item in items if type(item) in (list, tuple)) > MANY_ITEMS


def digest(value: Any) -> str | None:  # noqa: ANN401 - a list or tuple of anything
    """Returns a checksum of a list or tuple. Two with the same checksum have the same types and values throughout.

    Returns None if something in it is no plain data.
    """
    total = hashlib.sha256(type(value).__name__.encode())
    try:
        for start in range(0, len(value), DIGEST_STEP):
            total.update(marshal.dumps(value[start : start + DIGEST_STEP], MARSHAL_VERSION))
    except ValueError:
        return None
    return total.hexdigest()


def encode(value: Any, hold: Callable[[object], int]) -> Any:  # noqa: ANN401 - any result
    """Returns what json.dumps writes for `value`. `hold` keeps functions and iterators and returns their numbers."""
    kind = type(value)
    if kind in ATOMS:
        return {"h": hex(value)} if kind is int and abs(value) >= LARGEST_INT else value
    if kind is list:
        return _encode_items(value, hold)
    if kind is tuple:
        return {"t": _encode_items(list(value), hold)}
    if kind is dict:
        return {"d": _encode_pairs(value.items(), hold)}
    tagged = _encode_array(value, hold)
    for encoder in (_encode_container, _encode_subclass):
        if tagged is None:
            tagged = encoder(value, hold)
    if tagged is not None:
        return tagged
    if hasattr(kind, "__next__"):
        return {"i": hold(value)}
    return {"c": hold(value)} if callable(value) else {"o": f"{kind.__module__}.{kind.__qualname__}"}


def _encode_items(items: list[Any], hold: Callable[[object], int]) -> list[Any]:
    kinds = set(map(type, items))
    if kinds <= ATOMS and (int not in kinds or (kinds <= {int, float, bool} and _all_small(items))):
        return items
    return [encode(item, hold) for item in items]


def _all_small(items: list[Any]) -> bool:
    return bool(max(items) < LARGEST_INT and min(items) > -LARGEST_INT)


def _encode_pairs(pairs: Iterable[tuple[Any, Any]], hold: Callable[[object], int]) -> list[Any]:
    keys, values = [], []
    for key, value in pairs:
        keys.append(key)
        values.append(value)
    return [_encode_items(keys, hold), _encode_items(values, hold)]


def _encode_container(value: Any, hold: Callable[[object], int]) -> Any:  # noqa: ANN401 - any result
    """Returns the form of the standard library's other plain types, or None for another type."""
    kind = type(value)
    if kind in (set, frozenset):
        return {"s" if kind is set else "f": _encode_items(list(value), hold)}
    if kind is complex:
        return {"z": [value.real, value.imag]}
    if kind in (bytes, bytearray):
        return {"b": [kind is bytes, base64.b64encode(value).decode("ascii")]}
    if kind is range:
        return {"r": [encode(part, hold) for part in (value.start, value.stop, value.step)]}
    if kind is collections.deque:
        return {"q": [_encode_items(list(value), hold), value.maxlen]}
    if kind is Decimal:
        return {"D": str(value)}
    if kind is Fraction:
        return {"F": [encode(value.numerator, hold), encode(value.denominator, hold)]}
    views = {type({}.keys()): "keys", type({}.values()): "values", type({}.items()): "items"}
    if kind in views:
        return {"v": [views[kind], _encode_items(list(value), hold)]}
    if kind in (*MAPPINGS.values(), collections.defaultdict):
        return {"m": [kind.__name__, *_encode_pairs(value.items(), hold)]}
    return None


def _encode_subclass(value: Any, hold: Callable[[object], int]) -> Any:  # noqa: ANN401 - any result
    """Returns the content of a subclass of a plain type, read with the plain type's own methods.

    Returns None for another type, and for a class that has its own idea of what it contains or equals.
    """
    mro = type(value).__mro__
    base = next((kind for kind in mro if kind in _PLAIN_BASES), None)
    if base is None or any(name in vars(kind) for kind in mro[: mro.index(base)] for name in CONTENT_METHODS):
        return None
    return encode(_PLAIN_BASES[base](value), hold)


_PLAIN_BASES: dict[type, Callable[[Any], Any]] = {
    str: str.__str__,
    int: int.__index__,
    float: float.__float__,
    list: lambda value: list(list.__iter__(value)),
    tuple: lambda value: tuple(tuple.__iter__(value)),
    dict: lambda value: dict(dict.items(value)),
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
}


def _encode_array(value: Any, hold: Callable[[object], int]) -> Any:  # noqa: ANN401 - any result
    """Returns the form of numpy's arrays and numbers, or None for another type."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if type(value) is numpy.ndarray and value.dtype.kind in ARRAY_KINDS:
        items = _encode_items(value.ravel().tolist(), hold)
        return {"a": [value.dtype.str, list(value.shape), items]}
    if type(value).__module__ == "numpy" and isinstance(value, numpy.generic) and value.dtype.kind in ARRAY_KINDS:
        return {"n": [value.dtype.str, encode(value.item(), hold)]}
    return None


def decode(form: Any) -> Any:  # noqa: ANN401 - any plain value
    """Returns the plain value that `form` describes. Raises ValueError, TypeError or another error for a bad form."""
    if isinstance(form, list):
        return form if set(map(type, form)) <= ATOMS else [decode(item) for item in form]
    if not isinstance(form, dict):
        return form
    if len(form) != 1:
        raise ValueError(f"a form has one tag: got {len(form)}")
    ((tag, content),) = form.items()
    if tag not in _DECODERS:
        raise ValueError(f"tag of a form: got {tag!r}; valid: {', '.join(_DECODERS)}")
    return _DECODERS[tag](content)


def _mapping(pairs: list[Any]) -> dict[Any, Any]:
    keys, values = pairs
    return dict(zip(decode(keys), decode(values), strict=True))


def _named_mapping(content: list[Any]) -> dict[Any, Any]:
    plain = _mapping(content[1:])
    if content[0] == "defaultdict":
        return collections.defaultdict(None, plain)
    return MAPPINGS[content[0]](plain)


def _bytes(content: list[Any]) -> bytes | bytearray:
    value = base64.b64decode(content[1])
    return value if content[0] else bytearray(value)


def _view(content: list[Any]) -> Any:  # noqa: ANN401 - one of three types
    items = decode(content[1])
    if content[0] == "keys":
        return dict.fromkeys(items).keys()
    return dict(items).items() if content[0] == "items" else dict(enumerate(items)).values()


def _numpy_type(name: str) -> tuple[ModuleType, Any]:
    import numpy as np  # most answers need no numpy, and it takes longer to load than they run

    dtype = np.dtype(str(name))
    if dtype.kind not in ARRAY_KINDS or dtype.hasobject != (dtype.kind == "O") or dtype.names:
        raise ValueError(f"type of an array: got {name!r}; valid kinds: {ARRAY_KINDS}")
    return np, dtype


def _array(content: list[Any]) -> Any:  # noqa: ANN401 - numpy is loaded only where it is needed
    name, shape, items = content
    np, dtype = _numpy_type(name)
    values = decode(items)
    array = np.empty(len(values), dtype)
    for index, value in enumerate(values) if dtype.kind == "O" else ():
        array[index] = value
    if dtype.kind != "O":
        array[:] = values
    return array.reshape([int(length) for length in shape])


def _number(content: list[Any]) -> Any:  # noqa: ANN401 - numpy is loaded only where it is needed
    np, dtype = _numpy_type(content[0])
    return np.array(decode(content[1]), dtype)[()]


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "h": lambda text: int(text, 16),
    "t": lambda items: tuple(decode(items)),
    "d": _mapping,
    "m": _named_mapping,
    "s": lambda items: set(decode(items)),
    "f": lambda items: frozenset(decode(items)),
    "z": lambda parts: complex(float(parts[0]), float(parts[1])),
    "b": _bytes,
    "r": lambda parts: range(*decode(parts)),
    "q": lambda content: collections.deque(decode(content[0]), content[1]),
    "D": Decimal,
    "F": lambda parts: Fraction(*decode(parts)),
    "v": _view,
    "a": _array,
    "n": _number,
    "i": lambda handle: HeldIterator(int(handle)),
    "c": lambda handle: HeldFunction(int(handle)),
    "o": lambda name: Opaque(str(name)),
    "g": lambda content: HeldResult(int(content[0]), str(content[1])),
}
