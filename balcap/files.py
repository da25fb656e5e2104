"""Files that appear under their final name only when complete, and locks that do not outlive their holder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary sibling to write (a file or a folder); move it to ``path`` when the block ends well.

    An existing ``path`` is replaced; on an exception the sibling is removed and ``path`` is as before. A full disk is
    an ``OSError`` that names ``path``, whatever the library that wrote made of it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.parent / f".{path.name}.tmp-{os.getpid()}"
    remove(tmp)
    try:
        yield tmp
        if path.is_dir():  # os.replace cannot replace a folder that has content
            remove(path)
        os.replace(tmp, path)
    except Exception as error:
        if code := _no_room(error, tmp):
            raise OSError(code, f"{os.strerror(code)}; free some and run again", str(path)) from error
        raise
    finally:
        remove(tmp)


def _no_room(error: Exception, tmp: Path) -> int | None:
    """The system's number of an error that means no room; libraries wrap it in types and texts of their own.

    An error that names a file elsewhere speaks for itself.
    """
    named = getattr(error, "filename", None)
    if named is not None and not Path(os.fsdecode(named)).is_relative_to(tmp):
        return None
    known = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return next((n for n in known if getattr(error, "errno", None) == n or os.strerror(n) in str(error)), None)


def remove(path: Path) -> None:
    """Delete a file or folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path | str, value: Any) -> None:
    """Write sorted, indented JSON atomically; NaN is refused (write ``None`` for unknown)."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as tmp:
        tmp.write_text(text + "\n", encoding="utf-8")


NOTICE_SECONDS = 3.0
"""Time after which somebody who waits for a lock wants to know why nothing happens."""


class Busy(RuntimeError):
    """Another process holds the lock and the deadline has passed."""


@contextmanager
def locked(path: Path | str, timeout: float, what: str = "") -> Iterator[None]:
    """Hold an exclusive advisory lock on ``path`` (freed by the system when the process dies).

    Says on stderr that it waits, once that has taken a moment. Raises :class:`Busy` after ``timeout`` seconds, naming
    the file and the holder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline, notice = time.monotonic() + timeout, time.monotonic() + NOTICE_SECONDS
    with path.open("a+") as f:
        while True:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Busy(_holder(f, path, what)) from None
                if time.monotonic() > notice:
                    print(f"waiting: {_holder(f, path, what)}", file=sys.stderr, flush=True)
                    notice = deadline
                time.sleep(0.05)
        f.truncate(0)
        f.write(str(os.getpid()))
        f.flush()
        yield


def _holder(lock: TextIO, path: Path, what: str) -> str:
    lock.seek(0)
    return f"{what or path} is in use by process {lock.read().strip() or '?'} (lock {path})"
