"""Writing files whole or not at all."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

PathLike: TypeAlias = str | os.PathLike[str]


@contextmanager
def whole_file(path: PathLike) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block ends, and is removed when the block fails.

    Raises:
        OSError: a file that cannot be written; the message names it.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "scores.txt"
        >>> with whole_file(path) as temporary:
        ...     _ = temporary.write_text("0.5")
        >>> path.read_text()
        '0.5'
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, f"{path} cannot be written: {error.strerror or error}") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: PathLike, value: dict[str, Any]) -> None:
    """Writes values as JSON, which knows no NaN; the whole file or nothing."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_csv(path: PathLike, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows by the names of their columns; the whole file or nothing."""
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def write_bytes(path: PathLike, write: Callable[[io.BytesIO], object]) -> None:
    """Writes what a function writes into a buffer; unlike torch.save and np.save, a full disk is told as such."""
    buffer = io.BytesIO()
    write(buffer)
    with whole_file(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
