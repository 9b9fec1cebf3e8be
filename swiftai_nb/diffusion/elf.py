"""Reads the dynamic section of a loaded ELF64 library and writes its pointers (Linux, glibc).

The structures are those of the ELF-64 object file format and the System V ABI; `dl_iterate_phdr` is
described in its Linux manual page.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path

_PT_DYNAMIC = 2
_DT_PLTRELSZ, _DT_STRTAB, _DT_SYMTAB, _DT_RELA, _DT_RELASZ, _DT_JMPREL = 2, 5, 6, 7, 8, 23
_RELA_SIZE, _SYM_SIZE = 24, 24
# R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT, R_AARCH64_GLOB_DAT, R_AARCH64_JUMP_SLOT
_POINTER_RELOCATIONS = frozenset({6, 7, 1025, 1026})
_PROT_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE


class ElfError(Exception):
    """The library is not loaded, or not laid out as expected."""


class _ProgramHeader(ctypes.Structure):
    _fields_ = (
        ("p_type", ctypes.c_uint32),
        ("p_flags", ctypes.c_uint32),
        ("p_offset", ctypes.c_uint64),
        ("p_vaddr", ctypes.c_uint64),
        ("p_paddr", ctypes.c_uint64),
        ("p_filesz", ctypes.c_uint64),
        ("p_memsz", ctypes.c_uint64),
        ("p_align", ctypes.c_uint64),
    )


class _LoadedObject(ctypes.Structure):
    _fields_ = (
        ("addr", ctypes.c_uint64),
        ("name", ctypes.c_char_p),
        ("headers", ctypes.POINTER(_ProgramHeader)),
        ("header_count", ctypes.c_uint16),
    )


_Visitor = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_LoadedObject), ctypes.c_size_t, ctypes.c_void_p)


def _objects() -> list[tuple[str, int, int | None]]:
    """(path, base address, address of the dynamic section) of every loaded object."""
    found: list[tuple[str, int, int | None]] = []

    def visit(pointer: ctypes._Pointer[_LoadedObject], _size: int, _data: int | None) -> int:
        loaded = pointer.contents
        headers = (loaded.headers[i] for i in range(loaded.header_count))
        dynamic = next((loaded.addr + h.p_vaddr for h in headers if h.p_type == _PT_DYNAMIC), None)
        found.append(((loaded.name or b"").decode("utf-8", "surrogateescape"), loaded.addr, dynamic))
        return 0

    ctypes.CDLL(None).dl_iterate_phdr(_Visitor(visit), None)
    return found


def loaded_libraries() -> list[str]:
    """Paths of the shared libraries in this process; empty where the C library cannot tell."""
    try:
        return [path for path, _, _ in _objects() if path]
    except (AttributeError, OSError):  # macOS, Windows
        return []


def _u64(address: int) -> int:
    return ctypes.c_uint64.from_address(address).value


def _dynamic_entries(dynamic: int) -> dict[int, int]:
    entries: dict[int, int] = {}
    while (tag := _u64(dynamic)) != 0:
        entries[tag] = _u64(dynamic + 8)
        dynamic += 16
    return entries


def jump_slots(library: str, symbols: Iterable[str]) -> dict[str, int]:
    """Addresses of the pointers through which `library` calls `symbols` of other libraries.

    Args:
        library: file name of a loaded shared library.
        symbols: names to look for; those it does not import are left out of the answer.

    Raises:
        ElfError: the library is not loaded or has no symbol table.
    """
    place = next(((b, d) for path, b, d in _objects() if Path(path).name == library), None)
    if place is None or place[1] is None:
        raise ElfError(f"{library} is not loaded")
    base, dynamic = place[0], place[1]
    entries = _dynamic_entries(dynamic)
    if _DT_SYMTAB not in entries or _DT_STRTAB not in entries:
        raise ElfError(f"{library} has no dynamic symbols")
    wanted = {name.encode(): name for name in symbols}
    longest = max(map(len, wanted)) + 1
    slots: dict[str, int] = {}
    for slot, name_at in _pointer_relocations(base, entries):
        name = wanted.get(ctypes.string_at(name_at, longest).split(b"\0", 1)[0])
        if name is not None:
            slots[name] = slot
    return slots


def _pointer_relocations(base: int, entries: dict[int, int]) -> Iterator[tuple[int, int]]:
    """(address of the pointer, address of its symbol's name) of all function pointers."""

    def absolute(value: int) -> int:  # glibc has already added the base to these, other loaders may not
        return value if value > base else base + value

    symbols, strings = absolute(entries[_DT_SYMTAB]), absolute(entries[_DT_STRTAB])
    for table, size in ((_DT_JMPREL, _DT_PLTRELSZ), (_DT_RELA, _DT_RELASZ)):
        if table not in entries or size not in entries:
            continue
        start = absolute(entries[table])
        for at in range(start, start + entries[size], _RELA_SIZE):
            info = _u64(at + 8)
            symbol, kind = info >> 32, info & 0xFFFFFFFF
            if symbol and kind in _POINTER_RELOCATIONS:
                name = ctypes.c_uint32.from_address(symbols + _SYM_SIZE * symbol).value
                yield base + _u64(at), strings + name


def write_pointer(slot: int, value: int) -> int:
    """Stores an 8-byte pointer at `slot`, making its page writable if need be; returns the old one.

    Raises:
        ElfError: the page is read-only and stays so.
    """
    if not _is_writable(slot):
        page = slot & ~(mmap.PAGESIZE - 1)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), _PROT_READ_WRITE) != 0:
            raise ElfError("the pointers of libmlx.so are read-only")
    place = ctypes.c_uint64.from_address(slot)
    old, place.value = place.value, value
    return int(old)


def _is_writable(address: int) -> bool:
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, permissions = line.split(maxsplit=2)[:2]
        start, end = (int(part, 16) for part in span.split("-"))
        if start <= address < end:
            return "w" in permissions
    return False
