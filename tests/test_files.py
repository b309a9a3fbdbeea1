"""Files are written whole or not at all."""

import pytest

from torch_trf._files import whole_file


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
