"""Files of compiled programs: found again, never trusted blindly, never in the way, never many."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nexusquant.kernels import program_files
from nexusquant.kernels.program_files import FOLDER_VARIABLE, kept


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "a" / "b"))
    return tmp_path / "a" / "b"


def never() -> bytes:
    raise AssertionError("it was made anew")


def put(name: str, folder: Path, time_s: int) -> Path:
    """Keep a program as if it had been used at a time."""
    before = set(folder.glob("*"))
    kept([name], name.encode)
    (path,) = set(folder.glob("*")) - before
    os.utime(path, (time_s, time_s))
    return path


def test_a_program_is_made_once_and_found_again(folder):
    assert kept(["a", "b"], lambda: b"program") == b"program"
    assert kept(["a", "b"], never) == b"program"


def test_what_it_is_made_from_is_told_apart_part_by_part(folder):
    kinds = (["ab", "c"], ["a", "bc"], ["abc"], ["c", "ab"])
    for number, made_from in enumerate(kinds):
        assert kept(made_from, lambda number=number: bytes([number])) == bytes([number])
    assert [kept(made_from, never)[0] for made_from in kinds] == [0, 1, 2, 3]


@pytest.mark.parametrize("named", [None, ""])
def test_nothing_is_written_where_no_folder_is_named(named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(FOLDER_VARIABLE, named or "")
    if named is None:
        monkeypatch.delenv(FOLDER_VARIABLE)
    assert [kept(["a"], lambda number=number: number) for number in (b"1", b"2")] == [b"1", b"2"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:10],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: bytes([data[0] ^ 1]) + data[1:],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    ],
    ids=["empty", "short", "cut", "longer", "other program", "other digest"],
)
def test_a_damaged_file_is_made_anew_and_written_over(damage, folder):
    kept(["a"], lambda: b"program" * 20)
    (path,) = folder.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert kept(["a"], lambda: b"anew") == b"anew"
    assert kept(["a"], never) == b"anew"
    assert list(folder.iterdir()) == [path]


def test_a_file_that_cannot_be_read_or_replaced_is_done_without(folder):
    kept(["a"], lambda: b"program")
    (path,) = folder.iterdir()
    path.unlink()
    path.mkdir()
    assert [kept(["a"], lambda number=number: number) for number in (b"1", b"2")] == [b"1", b"2"]
    assert list(folder.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_done_without(folder):
    folder.parent.write_bytes(b"a file")
    assert [kept(["a"], lambda number=number: number) for number in (b"1", b"2")] == [b"1", b"2"]


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="every folder can be written here"
)
def test_a_folder_that_is_read_only_is_done_without(folder):
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    assert [kept(["a"], lambda number=number: number) for number in (b"1", b"2")] == [b"1", b"2"]


def test_a_full_disk_leaves_nothing_behind(folder, monkeypatch):
    def fill(path: Path, data: bytes) -> None:
        path.touch()
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", fill)
    assert kept(["a"], lambda: b"program") == b"program"
    assert list(folder.iterdir()) == []


def test_somebody_else_s_file_is_used_though_it_cannot_be_marked_as_used(folder, monkeypatch):
    def refuse(*_) -> None:
        raise PermissionError

    kept(["a"], lambda: b"program")
    monkeypatch.setattr(os, "utime", refuse)
    assert kept(["a"], never) == b"program"


def test_a_program_that_cannot_be_made_is_told_and_not_kept(folder):
    def fail() -> bytes:
        raise RuntimeError("the compiler's words")

    with pytest.raises(RuntimeError, match="the compiler's words"):
        kept(["a"], fail)
    assert kept(["a"], lambda: b"program") == b"program"


def test_several_may_write_the_same_file_at_once(folder):
    together = threading.Barrier(8)

    def make() -> bytes:
        # nobody has written yet when all of them are about to
        together.wait(20)
        return b"program" * 10_000

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: kept(["a"], make), range(8)))
    assert set(made) == {b"program" * 10_000}
    assert len(list(folder.iterdir())) == 1
    assert kept(["a"], never) == b"program" * 10_000


def test_a_file_has_its_name_only_when_it_is_whole(folder, monkeypatch):
    seen = []

    def replace(part: Path, path: Path) -> None:
        seen.append((part.parent == path.parent, path.exists(), part.read_bytes()[:7]))
        os.rename(part, path)

    monkeypatch.setattr(program_files.os, "replace", replace)
    kept(["a"], lambda: b"program")
    assert seen == [(True, False, b"program")]


def test_the_longest_unused_files_make_room_and_other_files_stay(folder, monkeypatch):
    monkeypatch.setattr(program_files, "_MOST_FILES", 3)
    folder.mkdir(parents=True)
    other = folder / "notes.cubin"
    other.touch()
    os.utime(other, (1, 1))
    _, used, newer = (put(name, folder, 10 + n) for n, name in enumerate("abc"))
    kept(["b"], never)
    # half a file of a process that was ended
    left_over = folder / program_files._NAME.format("0123")
    left_over.touch()
    os.utime(left_over, (5, 5))
    kept(["d"], lambda: b"d")
    names = {path.name for path in folder.iterdir()}
    assert len(names) == 4 and {other.name, used.name, newer.name} < names
    kept(["e"], lambda: b"e")
    assert used.exists() and not newer.exists()
    assert len(list(folder.iterdir())) == 4
