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
        """Once no file is being written: it could not become read-only before."""
        self.say(f"until mount -o remount,{options} '{self.folder}' 2> /dev/null; do sleep 0.01; done; echo mounted")

    def say(self, command: str) -> str:
        self.shell.stdin.write(f"{command}\n")
        self.shell.stdin.flush()
        return self.shell.stdout.readline()


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Disk]:
    folder.mkdir()
    shell = subprocess.Popen(["unshare", "-rm", "sh", "-e"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    disk = Disk(shell, folder)
    try:
        if not disk.say(f"mount -t tmpfs -o size={size} none '{folder}' && echo mounted"):
            pytest.skip("no file system can be mounted here")
        yield disk
    finally:
        shell.stdin.close()
        shell.wait()
