"""One place for results and stage states: a folder, a network share or an object store.

    storage = Storage("results")                   # or /nfs/team/results, s3://bucket/prefix, gs://bucket/prefix
    storage.write_bytes("stages/ab12.json", data)  # whole or not at all, also under a power cut or a kill

Names are relative, with forward slashes. A reader never sees half a file: on a file system it is written aside,
flushed to disk and renamed; an object store shows an object only when its upload is complete.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from bo_distill.methods.errors import UsageError, check_utf8

DEFAULT = "results"  # the storage where nobody names one, in the working directory
OBJECT_STORES = ("s3", "gcs", "abfs")


class Conflict(Exception):
    """Another process has written the file since it was read."""


@dataclass(frozen=True)
class Entry:
    """A file or a folder of a storage.

    Attributes:
        size: bytes.
        changed: when it was last written, seconds since 1970 by the storage's own clock.
    """

    name: str
    size: int
    changed: float
    is_folder: bool


class Storage:
    """A folder of files behind `pyarrow.fs`. Holds no open file or lock, so it can be pickled to other processes.

    Attributes:
        uri: as given; a local path is made absolute, so that it means the same in every process.
        fs: the `pyarrow.fs.FileSystem`.
        root: the folder inside `fs`.

    Raises:
        UsageError: the URI is not UTF-8, or names no file system that can be reached.
    """

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        from pyarrow import fs  # 0.1 s; a command's --help should not pay for it

        given = os.fspath(uri)
        if not given:
            raise UsageError("--storage is empty; give a folder or s3://bucket/prefix")
        check_utf8("--storage", given)
        if "://" in given and urlsplit(given).password:
            raise UsageError(
                "--storage: an address with a secret key would be shown and kept; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, and give the address without them"
            )
        try:
            if "://" in given and not given.startswith("file://"):
                self.uri = given
                self.fs, self.root = fs.FileSystem.from_uri(given)
            else:
                path = unquote(given.removeprefix("file://")) if given.startswith("file://") else given
                self.uri = self.root = os.path.abspath(os.path.expanduser(path))
                self.fs = fs.LocalFileSystem()
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--storage {given} cannot be reached: {_reason(error)}; give a folder or a bucket"
            ) from None
        if not self.is_local and self.fs.type_name not in OBJECT_STORES:
            raise UsageError(f"--storage {given}: {self.fs.type_name} is not supported; give a folder, s3:// or gs://")

    def __repr__(self) -> str:
        return f"Storage({self.uri!r})"

    @property
    def is_local(self) -> bool:
        """Whether the files can be opened by path, a mounted network share included."""
        return bool(self.fs.type_name == "local")

    def path(self, *parts: str) -> str:
        """The path of a name inside `fs`, for `pyarrow.dataset` and the like.

        Raises:
            ValueError: the name is absolute or climbs out of the root.
        """
        name = PurePosixPath(*parts)
        if name.is_absolute() or ".." in name.parts:
            raise ValueError(f"{name} is not a name inside a storage")
        return str(PurePosixPath(self.root, name))

    def local_path(self, name: str = "") -> Path:
        """The file of a name.

        Raises:
            ValueError: the storage is an object store.
        """
        if not self.is_local:
            raise ValueError(f"{self.uri} is not a folder of this machine")
        return Path(self.path(name))

    def exists(self, name: str = "") -> bool:
        """Whether there is a file or a folder of this name."""
        return bool(self.fs.get_file_info(self.path(name)).type.name != "NotFound")

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """What lies below the folder `prefix`, at any depth, files under way and folders included; in no order."""
        from pyarrow import fs

        selector = fs.FileSelector(self.path(prefix), recursive=True, allow_not_found=True)
        for info in self.fs.get_file_info(selector):
            name = str(PurePosixPath(info.path).relative_to(self.root))
            changed = info.mtime_ns / 1e9 if info.mtime_ns else 0.0  # an object store's folders have none
            yield Entry(name, info.size or 0, changed, info.type == fs.FileType.Directory)

    def list(self, prefix: str = "") -> list[str]:
        """Names of the files below the folder `prefix`, at any depth, sorted; none where there is no such folder.

        Files whose name starts with a dot are left out: those are under way.
        """
        names = [entry.name for entry in self.entries(prefix) if not entry.is_folder]
        return sorted(name for name in names if not PurePosixPath(name).name.startswith("."))

    def read_bytes(self, name: str) -> bytes:
        """A whole file.

        Raises:
            FileNotFoundError: there is none.
        """
        with self.fs.open_input_file(self.path(name)) as stream:
            return bytes(stream.read())

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all; an older one of the same name is replaced.

        Raises:
            UsageError: it cannot be written; the older file, if any, is untouched.
        """
        if not self.is_local:
            self._put(name, data, "overwrite")
            return
        try:
            write_whole(self.local_path(name), data)
        except OSError as error:
            raise self.not_writable(error) from error

    def move(self, name: str, to: str) -> None:
        """Rename a file, replacing one of that name. One step on a file system; copy and delete on an object store.

        Raises:
            FileNotFoundError: there is none.
            UsageError: the storage cannot be written.
        """
        try:
            if self.is_local:
                self.local_path(to).parent.mkdir(parents=True, exist_ok=True)
            self.fs.move(self.path(name), self.path(to))
        except OSError as error:
            if not self.exists(name):  # an object store calls that some other error
                raise FileNotFoundError(self.path(name)) from error
            raise self.not_writable(error) from error

    def delete(self, name: str) -> None:
        """Delete a file. One that is already gone is no error: another process may have been first.

        Raises:
            UsageError: the storage cannot be written.
        """
        try:
            self.fs.delete_file(self.path(name))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self.not_writable(error) from error

    def delete_folder(self, name: str) -> None:
        """Delete a folder and all that is in it. One that is already gone is no error.

        Raises:
            UsageError: the storage cannot be written.
        """
        try:
            if self.exists(name):
                self.fs.delete_dir(self.path(name))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self.not_writable(error) from error

    def read_versioned(self, name: str) -> tuple[bytes, str]:
        """A whole file of an object store, and its version, which `write_versioned` takes.

        Raises:
            FileNotFoundError: there is none.
        """
        import obstore

        try:
            found = obstore.get(self._objects, self.path(name).partition("/")[2])
            return bytes(found.bytes()), _version(found.meta)
        except FileNotFoundError:
            raise FileNotFoundError(self.path(name)) from None
        except obstore.exceptions.BaseError as error:
            raise OSError(_reason(error)) from error

    def write_versioned(self, name: str, data: bytes, version: str) -> str:
        """Write a file of an object store only if it is still as it was read.

        Args:
            version: as read or written last; empty where there was no such file.

        Returns:
            the new version.

        Raises:
            Conflict: another process wrote it in between.
            UsageError: the storage cannot be written.
        """
        kind, _, value = version.partition("=")
        return self._put(name, data, {kind: value} if version else "create")

    def _put(self, name: str, data: bytes, mode: Any) -> str:
        """Write an object in one request; returns its version.

        pyarrow has no conditional put, and an interruption of its upload leaves what had come so far as the object; of
        an upload in parts an interruption leaves parts that are not seen and cost.

        Raises:
            Conflict: `mode` does not allow it.
            UsageError: the storage cannot be written.
        """
        import obstore

        try:
            return _version(
                obstore.put(self._objects, self.path(name).partition("/")[2], data, mode=mode, use_multipart=False)
            )
        except (obstore.exceptions.PreconditionError, obstore.exceptions.AlreadyExistsError) as error:
            raise Conflict(self.path(name)) from error
        except (obstore.exceptions.BaseError, FileNotFoundError, PermissionError) as error:
            raise self.not_writable(OSError(_reason(error))) from error

    @cached_property
    def _objects(self) -> Any:
        """The bucket through obstore, for `_put`; from the same URI. The key comes from the environment or the role of
        the machine; a profile in ~/.aws, which pyarrow reads, is not read.

        Raises:
            UsageError: obstore is not installed.
        """
        try:
            from obstore.store import from_url
        except ModuleNotFoundError:
            raise UsageError(
                f"--storage {self.uri}: an object store needs obstore; pip install -e '.[cluster]'"
            ) from None
        parsed = urlsplit(self.uri)
        options = dict(parse_qsl(parsed.query))
        endpoint = options.get("endpoint_override") or os.environ.get("AWS_ENDPOINT_URL", "")
        if endpoint and "://" not in endpoint:
            endpoint = f"{options.get('scheme', 'https')}://{endpoint}"
        given = {"endpoint": endpoint, "region": options.get("region")} if parsed.scheme == "s3" else {}
        config: Any = {name: value for name, value in given.items() if value}
        # One put may be of hundreds of megabytes.
        client: Any = {"timeout": timedelta(minutes=30), "allow_http": endpoint.startswith("http://")}
        return from_url(f"{parsed.scheme}://{self.root.partition('/')[0]}", config=config, client_options=client)

    def check_writable(self, *folders: str) -> None:
        """Find out before hours of work, not after, whether results can be kept. Leaves nothing behind
        (on an object store that was empty, the marker of the folder).

        Args:
            folders: that will be written beside the root. One that is not there yet is made by the first write. An
                object store has no folders, and rights to the whole bucket.

        Raises:
            UsageError: one line with the reason.
        """
        if not self.is_local:
            name = f".probe-{uuid.uuid4().hex}"
            self.write_bytes(name, b"probe")
            self.delete(name)
            return
        for name in ("", *folders):
            folder = self.local_path(name)
            try:
                while not folder.exists():
                    folder = folder.parent
                with tempfile.TemporaryFile(dir=folder, prefix=".probe-") as probe:
                    probe.write(b"probe")
                    probe.flush()  # a full disk and a quota show only now
            except OSError as error:
                if not name:
                    raise self.not_writable(error) from error
                raise UsageError(
                    f"--storage {self.uri}: {folder} cannot be written: {_reason(error)}; have its owner let you, or "
                    "give another --storage"
                ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_objects"}

    def not_writable(self, error: OSError) -> UsageError:
        """The one line that says why the storage cannot be written."""
        return UsageError(f"--storage {self.uri} cannot be written: {_reason(error)}; give a folder that can")


def write_whole(target: Path, data: bytes) -> None:
    """Write a file of this machine whole or not at all: aside, flushed to disk and renamed; an older one is kept, and a
    folder that was made for it is not."""
    made = not target.parent.exists()
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{uuid.uuid4().hex}.aside")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, target)
    except BaseException:
        aside.unlink(missing_ok=True)
        if made:
            with contextlib.suppress(OSError):  # others wrote into it
                target.parent.rmdir()
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name too, not only the bytes, survives a power cut
    finally:
        os.close(folder)


def _version(meta: Any) -> str:
    """What tells one content of an object from another: Google's generation number, others' entity tag."""
    return f"version={meta['version']}" if meta.get("version") else f"e_tag={meta['e_tag']}"


def _reason(error: Exception) -> str:
    """One line: the system's word where there is one, else the library's first sentence."""
    system = error.strerror if isinstance(error, OSError) else None
    return system or " ".join(str(error).split())[:200]
