"""Fetching and unpacking the official archives."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from filmvqa.disk import free_space
from filmvqa.errors import UserError
from filmvqa.locks import folder_lock

_BLOCK = 1 << 20
_TIMEOUT = 60


def download_archive(
    url: str, folder: str | Path, *, md5: str | None = None, needs: int | None = None
) -> None:
    """Fetch a zip archive and unpack it into ``folder``, without the archive's top folder.

    An interrupted call is resumed: from the bytes fetched, and with the files not yet unpacked. The
    archive is removed when all is unpacked.

    Parameters
    ----------
    md5
        Hexadecimal checksum; None leaves the check to the archive's own (CRC-32 a file).
    needs
        Bytes that archive and content take together; None: three times the archive.

    Raises
    ------
    UserError
        If the archive cannot be fetched, is broken, or would not fit on the disk.
    """
    folder = Path(folder)
    name = url.rpartition("/")[2]
    with folder_lock(folder, name):
        _download_and_unpack(url, folder, name, md5, needs)


def _download_and_unpack(
    url: str, folder: Path, name: str, md5: str | None, needs: int | None
) -> None:
    marker, archive, part = folder / f".{name}.done", folder / name, folder / f"{name}.part"
    if marker.exists():
        print(f"{folder}: {name} is there already")
        return
    if not archive.exists():
        size = _content_length(url)
        fetched = part.stat().st_size if part.exists() else 0
        print(f"{name}: {size / 2**30:.2f} GiB to fetch into {folder}, {fetched / 2**30:.2f} there")
        free = free_space(folder)
        if (needs or 3 * size) - fetched > free:
            raise UserError(
                f"{folder}: {name} and its content need {(needs or 3 * size) / 2**30:.1f} GiB, "
                f"free are {free / 2**30:.1f}; make room or choose data.root=<folder>"
            )
        if fetched < size:
            try:
                _fetch(url, part, fetched, size)
            except (URLError, OSError) as error:
                raise UserError(f"{url}: {error}; run again to go on with it") from None
        if part.stat().st_size < size:
            raise UserError(f"{url}: the connection was cut; run again to go on with it")
        if part.stat().st_size > size or (md5 is not None and _md5_of_file(part) != md5):
            part.unlink()
            raise UserError(f"{name}: not the file that it should be (size or MD5); run again")
        part.replace(archive)
    _unpack(archive, folder)
    os.sync()  # all of it at once: 100,000 files one by one would take an hour
    marker.touch()
    archive.unlink()


def _content_length(url: str) -> int:
    try:
        with urlopen(Request(url, method="HEAD"), timeout=_TIMEOUT) as response:
            return int(response.headers["Content-Length"])
    except (URLError, OSError, TypeError, ValueError) as error:
        raise UserError(f"{url}: cannot be reached ({error}); check the network") from None


def _fetch(url: str, part: Path, fetched: int, size: int) -> None:
    """Append the bytes of ``url`` from ``fetched`` on to a file."""
    headers = {"Range": f"bytes={fetched}-"} if fetched else {}
    with urlopen(Request(url, headers=headers), timeout=_TIMEOUT) as response:
        if response.status != 206:  # the server sends the whole file
            fetched = 0
        with (
            open(part, "ab" if fetched else "wb") as stream,
            tqdm(total=size, initial=fetched, unit="B", unit_scale=True) as bar,
        ):
            while block := response.read(_BLOCK):
                stream.write(block)
                bar.update(len(block))


def _md5_of_file(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()


def _unpack(archive: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as source:
            entries = [e for e in source.infolist() if not e.is_dir()]
            for entry in tqdm(entries, desc="unpack", unit="file"):
                inner = Path(*Path(entry.filename).parts[1:])
                if not inner.parts or ".." in inner.parts or Path(entry.filename).is_absolute():
                    raise UserError(f"{archive}: holds {entry.filename!r}, outside its own folder")
                target = folder / inner
                if target.exists() and target.stat().st_size == entry.file_size:
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = target.with_name(f".{target.name}.tmp")
                with source.open(entry) as content, open(temporary, "wb") as stream:
                    shutil.copyfileobj(content, stream, _BLOCK)
                temporary.replace(target)
    except zipfile.BadZipFile as error:
        archive.unlink()
        raise UserError(f"{archive}: broken archive ({error}); run again to fetch it") from None
