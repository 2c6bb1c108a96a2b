"""Uploads: whose they are, how many there may be, and where they lie."""

from __future__ import annotations

import os
import time

import pytest

from ui.state import uploads as uploads_module
from ui.state.uploads import MAX_AT_ONCE, MAX_NAME_LENGTH, UploadError, Uploads, plain_name


@pytest.fixture
def uploads(tmp_path) -> Uploads:
    return Uploads(tmp_path / "uploads", max_file_bytes=1000, max_user_bytes=2500, max_user_files=4)


def put(uploads: Uploads, owner: str, content: bytes = b"a line", name: str = "a.txt"):
    with uploads.begin(owner, name) as arriving:
        arriving.write(content)
        return arriving.finish()


def num_files(tmp_path) -> int:
    return sum(path.is_file() for path in tmp_path.rglob("*"))


def test_a_file_is_found_by_its_owner_alone(uploads):
    upload = put(uploads, "ada", b"content")
    assert uploads.find(upload.id, "ada").path.read_bytes() == b"content"
    for owner in ("bob", "", "ada "):
        with pytest.raises(UploadError, match="not uploaded here"):
            uploads.find(upload.id, owner)


@pytest.mark.parametrize("wrong", [None, "", 7, [], {}, "/etc/passwd", "u_", "../x", "\ud83d"])
def test_what_is_no_id_finds_nothing(wrong, uploads):
    put(uploads, "ada")
    with pytest.raises(UploadError):
        uploads.find(wrong, "ada")


def test_ids_cannot_be_guessed_and_tell_nothing_of_a_path(uploads):
    ids = {put(uploads, f"user {n}").id for n in range(50)}
    assert len(ids) == 50
    assert all(len(one) > 20 and "/" not in one for one in ids)


def test_too_many_files_remove_ones_own_oldest_and_nobody_elses(uploads):
    hers = put(uploads, "ada")
    his = [put(uploads, "bob") for _ in range(10)]
    assert uploads.find(hers.id, "ada")
    kept = [upload for upload in his if upload.path.exists()]
    assert kept == his[-4:]


def test_too_many_bytes_do_the_same(uploads):
    hers = put(uploads, "ada", bytes(1000))
    his = [put(uploads, "bob", bytes(1000)) for _ in range(4)]
    assert [upload.path.exists() for upload in his] == [False, False, True, True]
    assert hers.path.exists()


def test_a_file_that_is_too_large_leaves_nothing(uploads, tmp_path):
    with pytest.raises(UploadError, match="at most"), uploads.begin("ada", "a.txt") as arriving:
        arriving.write(bytes(600))
        arriving.write(bytes(600))
    assert num_files(tmp_path) == 0
    put(uploads, "ada")


def test_an_upload_that_breaks_off_leaves_nothing(uploads, tmp_path):
    for _ in range(MAX_AT_ONCE + 2):
        with pytest.raises(ConnectionError), uploads.begin("ada", "a.txt") as arriving:
            arriving.write(b"half")
            raise ConnectionError
    assert num_files(tmp_path) == 0


def test_few_files_of_one_person_arrive_at_once_and_others_do_not_wait(uploads):
    arriving = [uploads.begin("bob", "a.txt") for _ in range(MAX_AT_ONCE)]
    with pytest.raises(UploadError, match="on their way"):
        uploads.begin("bob", "a.txt")
    assert put(uploads, "ada")
    for one in arriving:
        one.__exit__()
    assert put(uploads, "bob")


def test_old_files_go_by_themselves(uploads, monkeypatch):
    old = put(uploads, "ada")
    monkeypatch.setattr(uploads_module, "MAX_AGE_S", -1.0)
    put(uploads, "bob")
    with pytest.raises(UploadError):
        uploads.find(old.id, "ada")
    assert not old.path.exists()


def test_what_an_earlier_run_left_is_removed_after_a_day_and_links_are_not_followed(tmp_path):
    folder, outside = tmp_path / "uploads", tmp_path / "outside"
    (folder / "run-old").mkdir(parents=True)
    (folder / "run-old" / "file.txt").write_text("old")
    (folder / "run-new").mkdir()
    outside.mkdir()
    (outside / "mine.txt").write_text("mine")
    (folder / "link").symlink_to(outside)
    day_before = time.time() - 2 * 86_400
    for path in (folder / "run-old", folder / "link"):
        os.utime(path, (day_before, day_before), follow_symlinks=False)
    Uploads(folder)
    assert not (folder / "run-old").exists()
    assert (folder / "run-new").exists()
    assert not (folder / "link").is_symlink()
    assert (outside / "mine.txt").read_text() == "mine"


def test_a_file_that_was_swapped_for_a_device_or_a_folder_is_not_opened(uploads):
    for replace in (os.mkdir, os.mkfifo):
        upload = put(uploads, "ada")
        upload.path.unlink()
        replace(upload.path)
        with pytest.raises(UploadError, match="no file that can be opened"):
            uploads.find(upload.id, "ada")


def test_everything_goes_with_the_program(uploads, tmp_path):
    put(uploads, "ada")
    uploads.close()
    assert num_files(tmp_path) == 0


def test_a_folder_that_somebody_removed_is_made_again(uploads):
    upload = put(uploads, "ada")
    upload.path.unlink()
    uploads.close()
    assert put(uploads, "ada").path.exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\ada\\report.pdf", "report.pdf"),
        ("..", "file"),
        ("", "file"),
        ("a\x00\n\u202eb.txt", "ab.txt"),
        ("Übersicht 2026.pdf", "Übersicht 2026.pdf"),
    ],
)
def test_a_name_is_what_can_be_read_of_it(name, expected):
    assert plain_name(name) == expected


def test_a_long_name_keeps_its_suffix():
    assert plain_name("n" * 5000 + ".pdf").endswith("n.pdf")
    assert len(plain_name("n" * 5000 + ".pdf")) <= MAX_NAME_LENGTH
    assert len(plain_name("." + "n" * 5000)) <= MAX_NAME_LENGTH
