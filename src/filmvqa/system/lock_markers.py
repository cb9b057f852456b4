"""Lock files that name their holder, for file systems where ``flock`` does not work.

Such a file, a marker, is created exclusively and names a process. If that process was killed, the
marker is replaced by the next process on the same machine; from another machine it cannot be seen
whether the process still runs.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

#: Errors of ``os.link`` on file systems without hard links.
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK})


def _read_line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _start_of_process(process: int) -> int:
    """When a process began, in clock ticks after the start of the system; 0 if it cannot be seen,
    and -1 if the process has ended but its parent has not asked for its status yet."""
    # The name, in parentheses, may contain anything; state is the field after it, start the 20th.
    fields = _read_line(f"/proc/{process}/stat").rpartition(")")[2].split()
    if len(fields) < 20:
        return 0
    return -1 if fields[0] in "ZX" else int(fields[19])


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock. Empty strings and 0 stand for what its system does not tell.

    ``boot`` is the kernel's id of the time since it was started, and ``namespace`` that of the
    process numbers, which differs between containers. ``token`` tells two locks of one process
    apart.
    """

    process: int
    host: str
    boot: str = ""
    namespace: str = ""
    started: int = 0
    token: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    @classmethod
    def this_process(cls) -> Holder:
        return cls(
            os.getpid(),
            platform.node(),
            _read_line("/proc/sys/kernel/random/boot_id"),
            _pid_namespace(),
            _start_of_process(os.getpid()),
        )

    @classmethod
    def read(cls, path: Path) -> Holder | None:
        """The holder that a file names; None if it names none, or cannot be read."""
        try:
            record = json.loads(path.read_bytes())
            return cls(**record) if isinstance(record.get("process"), int) else None
        except (OSError, ValueError, AttributeError, TypeError):
            return None

    def text(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"

    def runs(self) -> bool | None:
        """Whether the process still runs; None if it cannot be seen from here."""
        here = Holder.this_process()
        if (self.boot, self.namespace) == (here.boot, here.namespace) and (
            self.boot or self.host == here.host
        ):
            return self._runs_beside_us()
        if self.host == here.host and self.boot and here.boot and self.boot != here.boot:
            return False  # the machine was started again since
        return None

    def _runs_beside_us(self) -> bool | None:
        if os.name != "posix":
            return None
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True  # another user's
        started = _start_of_process(self.process)
        # Another start: the number was given to another process.
        return started == 0 or self.started in (0, started)


class HeldError(Exception):
    """A lock belongs to a process that may still run, as the file ``path`` says.

    ``holder`` is None if the file names none; ``is_certain`` is whether the process surely runs.
    """

    def __init__(self, path: Path, holder: Holder | None, *, is_certain: bool) -> None:
        super().__init__(path, holder)
        self.path = path
        self.holder = holder
        self.is_certain = is_certain


def claim(path: Path, holder: Holder) -> None:
    """Create the marker ``path`` for ``holder``, or replace that of a process that has ended.

    Of several processes that do so at once, one succeeds. The right to replace a dead marker is a
    marker itself, named after the dead one, and goes to the first that creates it. It becomes the
    new marker by being renamed, so that at no time there is none.

    Raises
    ------
    HeldError
        If the marker's process may still run.
    """
    while not _create(path, holder):
        previous = Holder.read(path)
        if previous is None and not path.exists():
            continue  # it was released in between
        if previous is None or (runs := previous.runs()):
            raise HeldError(path, previous, is_certain=previous is not None)
        if runs is None:
            raise HeldError(path, previous, is_certain=False)
        successor = path.with_name(f"{path.stem}.{previous.token}.lock")
        claim(successor, holder)
        if Holder.read(path) == previous:
            successor.replace(path)
            return
        successor.unlink()  # another process replaced the marker before we had the right to


def release(path: Path, holder: Holder) -> None:
    """Remove the marker of ``holder``; that of another process is left alone."""
    if Holder.read(path) == holder:
        path.unlink(missing_ok=True)


def _create(path: Path, holder: Holder) -> bool:
    """Create a marker with its whole content at once; False if there is one already."""
    temporary = path.with_name(f"{path.name}.{holder.token}.tmp")
    try:
        temporary.write_text(holder.text())
        try:
            os.link(temporary, path)
        except FileExistsError:
            # A server's lost answer is asked for again, and the second answer is this error.
            return temporary.stat().st_nlink == 2
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            return _create_without_link(path, holder)
        return True
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _create_without_link(path: Path, holder: Holder) -> bool:
    """As ``_create``; for a moment, the marker names nobody."""
    try:
        with open(path, "x") as stream:
            try:
                stream.write(holder.text())
                stream.flush()
            except OSError:
                path.unlink(missing_ok=True)
                raise
    except FileExistsError:
        return False
    return True
