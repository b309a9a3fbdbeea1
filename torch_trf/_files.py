"""Writing files whole or not at all, and folders by one process at a time."""

import csv
import io
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any, TypeAlias

from filelock import FileLock, Timeout

PathLike: TypeAlias = str | os.PathLike[str]

FORMULA = "=+-@\t\r\n＝＋－＠"  # a spreadsheet computes a cell that begins with one of these
TEMPORARY = ".torch_trf"  # in the name of a file that is not whole yet


@contextmanager
def whole_file(path: PathLike) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block ends, and is removed when the block fails.

    The path is hidden, and another one each time, so two writers of one file do not meet. The file is on the disk
    before it takes its place: neither a killed process nor a power cut leaves a part of it.

    Raises:
        OSError: a file that cannot be written, or a place that holds no file, as a device; the message names it.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "scores.txt"
        >>> with whole_file(path) as temporary:
        ...     _ = temporary.write_text("0.5")
        >>> path.read_text()
        '0.5'
    """
    path = Path(path)
    temporary = path.with_name(f".{token_hex(8)}{TEMPORARY}{path.suffix}")
    try:
        if path.exists() and not path.is_file():
            raise OSError("a folder, a device or a pipe is in its place")
        yield temporary
        _flush(temporary, os.O_RDWR)
        os.replace(temporary, path)
    except OSError as error:
        _remove(temporary)
        message = f"{path} cannot be written: {error.strerror or error}"
        raise OSError(*([] if error.errno is None else [error.errno]), message) from error
    except BaseException:
        _remove(temporary)
        raise
    with suppress(OSError):  # not every system lets a folder be opened
        _flush(path.parent, os.O_RDONLY)


def _flush(path: Path, how: int) -> None:
    """Waits until a file, or which files a folder holds, is on the disk."""
    descriptor = os.open(path, how)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    with suppress(OSError):  # what cannot be written cannot be removed; the error before says more
        path.unlink()


@contextmanager
def only_writer(folder: PathLike) -> Iterator[None]:
    """Makes a folder, and holds it against other processes that write into it until the block, or the process, ends.

    Raises:
        OSError: a folder that another process holds, or that cannot be written; the message names it.
    """
    folder = Path(folder)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise BlockingIOError(f"{folder} is being written by another process: wait for it, or give another") from error
    except NotImplementedError:
        warnings.warn(f"{folder} cannot be locked: see that no other process writes into it", stacklevel=3)
    except OSError as error:
        raise OSError(error.errno, f"{folder} cannot be written: {error.strerror}") from error
    for left in (*folder.glob(f".*{TEMPORARY}*"), *folder.glob(f"*/.*{TEMPORARY}*")):  # of a writer that was killed
        _remove(left)
    try:
        yield
    finally:
        lock.release()


def write_json(path: PathLike, value: dict[str, Any]) -> None:
    """Writes values as JSON, which knows no NaN; the whole file or nothing."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_csv(path: PathLike, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows by the names of their columns, texts as `as_cell` has them; the whole file or nothing."""
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(map(as_cell, columns))
        writer.writerows([as_cell(row[column]) for column in columns] for row in rows)


def as_cell(value: Any) -> Any:
    """A value as it stands in a table: a text that a spreadsheet would take for a formula is marked by a `'`.

    Example:
        >>> as_cell("=1+1"), as_cell("'=1+1"), as_cell("unet"), as_cell(-0.5)
        ("'=1+1", "''=1+1", 'unet', -0.5)
    """
    return f"'{value}" if isinstance(value, str) and _is_formula(value) else value


def from_cell(text: str) -> str:
    """The text that `as_cell` made a cell of."""
    return text[1:] if text.startswith("'") and _is_formula(text) else text


def _is_formula(text: str) -> bool:
    """Whether a text begins as a formula does, whatever marks are before it."""
    return text.lstrip("'").startswith(tuple(FORMULA))


def write_bytes(path: PathLike, write: Callable[[io.BytesIO], object]) -> None:
    """Writes what a function writes into a buffer; unlike torch.save and np.save, a full disk is told as such."""
    buffer = io.BytesIO()
    write(buffer)
    with whole_file(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
