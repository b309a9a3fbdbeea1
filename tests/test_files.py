"""Files are written whole or not at all, folders by one process, and no cell is a formula."""

import csv
import os
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from torch_trf import _files
from torch_trf._files import as_cell, from_cell, only_writer, whole_file, write_csv, write_json


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scores.json"


def test_takes_its_place_when_the_block_ends(path):
    with whole_file(path) as temporary:
        assert (temporary.parent, temporary.suffix) == (path.parent, path.suffix)  # writers look at the suffix
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("written", ["half of the n", None])
def test_leaves_what_was_there_when_the_block_fails(path, error, written):
    def fail():
        with whole_file(path) as temporary:
            if written is not None:
                temporary.write_text(written)
            raise error

    path.write_text("old")
    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_nothing_written_is_an_error(path):
    with pytest.raises(FileNotFoundError), whole_file(path):
        pass
    assert not path.exists()


def test_an_error_of_writing_names_the_file(path):
    with pytest.raises(OSError, match=r"scores\.json cannot be written: No space left on device"), whole_file(path):
        raise OSError(28, "No space left on device")


def test_two_writers_of_one_file_do_not_meet(path):
    with whole_file(path) as first:
        first.write_text("first")
        with whole_file(path) as second:
            second.write_text("second")
            assert first.read_text() == "first"
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_is_on_the_disk_before_it_takes_its_place(path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        function = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, f=function, n=name: (calls.append(n), f(*args)))
    write_json(path, {"a": 1})
    assert calls == ["fsync", "replace", "fsync"]  # the last one is of the folder


def test_a_new_file_has_the_rights_that_others_have(path):
    path.with_name("other").touch()
    write_json(path, {})
    assert path.stat().st_mode == path.with_name("other").stat().st_mode


def test_a_file_that_can_neither_be_written_nor_removed_is_named(path, monkeypatch):
    def read_only(_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", read_only)
    with pytest.raises(OSError, match=r"scores\.json cannot be written: Read-only"), whole_file(path) as temporary:
        read_only(temporary)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes have names here")
def test_what_is_no_file_is_not_replaced(path):
    os.mkfifo(path)
    with pytest.raises(OSError, match=r"scores\.json cannot be written: a folder, a device or a pipe is in its place"):
        write_json(path, {})
    assert path.is_fifo()


def test_a_folder_has_one_writer(tmp_path):
    folder = tmp_path / "a" / "b"
    with only_writer(folder):
        with pytest.raises(OSError, match="b is being written by another process: wait"), only_writer(folder):
            pass
        with only_writer(tmp_path):
            pass
    with only_writer(folder):
        pass


def test_what_killed_writers_left_is_removed(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.setattr(_files.os, "replace", lambda *paths: None)  # as if the process ended before
    for folder in (tmp_path, tmp_path / "a"):
        write_json(folder / "x.json", {})
    assert len([*tmp_path.rglob(".*")]) == 2
    with only_writer(tmp_path):
        assert [path.name for path in tmp_path.rglob(".*")] == [".lock"]


def test_a_folder_that_cannot_be_written_is_named(path):
    path.touch()
    with pytest.raises(OSError, match=r"scores\.json cannot be written: File exists"), only_writer(path):
        pass


def test_a_system_without_locks_is_told(tmp_path, monkeypatch):
    def acquire(_):
        raise NotImplementedError

    monkeypatch.setattr(FileLock, "acquire", acquire)
    with pytest.warns(UserWarning, match="cannot be locked: see that no other process"), only_writer(tmp_path):
        pass


FORMULAS = ("=1+1", "+1", "-1", "@a", "\t=1", "\r=1", "＝1")


@pytest.mark.parametrize("text", [*FORMULAS, "unet", "a=b", "", "it's"])
def test_no_text_of_a_table_is_a_formula(path, text):
    write_csv(path, ["name", "score"], [{"name": text, "score": -0.5}])
    with path.open(newline="") as file:
        [_, [name, score]] = csv.reader(file)
    assert name == (f"'{text}" if text in FORMULAS else text)
    assert score == "-0.5"


@given(text=st.text() | st.text("'=+-@\ta"))
def test_a_cell_is_read_back(text):
    assert from_cell(as_cell(text)) == text
