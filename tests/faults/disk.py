"""A small file system of its own, which can fill up, grow and become read-only. It needs no rights, but Linux."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Disk:
    """Mounted in the namespace of a shell, and seen by everyone through /proc."""

    shell: subprocess.Popen
    folder: Path

    @property
    def path(self) -> Path:
        return Path(f"/proc/{self.shell.pid}/root{self.folder}")

    def remount(self, options: str) -> None:
        assert self.mount(f"remount,{options}")

    def mount(self, options: str) -> bool:
        self.shell.stdin.write(f"mount -t tmpfs -o {options} none '{self.folder}' && echo done || echo failed\n")
        self.shell.stdin.flush()
        return self.shell.stdout.readline() == "done\n"


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Disk]:
    folder.mkdir()
    shell = subprocess.Popen(["unshare", "-rm", "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    disk = Disk(shell, folder)
    try:
        if not disk.mount(f"size={size}"):
            pytest.skip("no file system can be mounted here")
        yield disk
    finally:
        shell.stdin.close()
        shell.wait()
