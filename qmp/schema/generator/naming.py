"""How names of the schema are spelled in C++ and Python."""

from __future__ import annotations

import re

_CPP_KEYWORDS = frozenset("""
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t char32_t class co_await
    co_return co_yield compl concept const const_cast consteval constexpr constinit continue decltype default delete do
    double dynamic_cast else enum explicit export extern false float for friend goto if inline int long mutable namespace
    new noexcept not not_eq nullptr operator or or_eq private protected public register reinterpret_cast requires return
    short signed sizeof static static_assert static_cast struct switch template this thread_local throw true try typedef
    typeid typename union unsigned using virtual void volatile wchar_t while xor xor_eq linux unix errno
""".split())

_WORD = re.compile(r"[A-Za-z0-9]+")


def snake(name: str) -> str:
    """A member: `read-only` is read_only, `default` is default_."""
    spelled = "_".join(_WORD.findall(name)).lower()
    if spelled in _CPP_KEYWORDS or spelled[0].isdigit():
        spelled += "_"
    return spelled


def camel(name: str) -> str:
    """A command or an event: `blockdev-add` is BlockdevAdd, `BLOCK_IO_ERROR` is BlockIoError."""
    words = _WORD.findall(name)
    if name.isupper() or (name == name.upper() and any(c.isalpha() for c in name)):
        words = [word.lower() for word in words]
    return "".join(word[0].upper() + word[1:] for word in words)


def enumerator(name: str) -> str:
    """A value: `copy-on-read` is kCopyOnRead, `2_5` is k2_5."""
    words = _WORD.findall(name)
    spelled = "k"
    for word in words:
        if spelled[-1].isdigit() and word[0].isdigit():
            spelled += "_"
        spelled += word[0].upper() + word[1:]
    return spelled


def type_snake(name: str) -> str:
    """A type inside a function's name: BlockdevOnError is blockdev_on_error, X509 stays together."""
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)
    spaced = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", spaced)
    return spaced.lower()


def quoted(text: str) -> str:
    """A C++ or Python string literal."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
