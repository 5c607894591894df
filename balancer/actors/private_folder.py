"""The temporary folder of one balancer and the reaper that removes it, handed from launcher to server.

Only this user can enter it. Ray makes its own folder writable for everybody, so that lies inside, and the token beside.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from trimode.balancer.actors import reaper
from trimode.core.locked_folder import BALANCER_FOLDERS, make_locked, remove_unlocked

_VARIABLE = "TRIMODE_BALANCER_FOLDER"
_PARENT = Path("/tmp")  # noqa: S108 (mkdtemp makes a folder of mode 0700 with a random name)
"""TMPDIR may be too long: Ray puts unix sockets inside, whose paths have at most 107 bytes."""


@dataclass(frozen=True, slots=True)
class PrivateFolder:
    """Current folder of every process of one balancer. It is removed once the process that holds `reaper_fd` ends."""

    path: Path
    reaper_pid: int
    reaper_fd: int
    """Write end of the reaper's standard input. Nothing is written; the reaper acts when it closes."""

    @property
    def ray_path(self) -> Path:
        """Ray's folder: sockets, logs and session files."""
        return self.path / "ray"

    @classmethod
    def create(cls) -> PrivateFolder:
        """Makes the folder and starts its reaper. The descriptor stays open through one `exec` of this process."""
        remove_unlocked(_PARENT, BALANCER_FOLDERS)
        path, lock = make_locked(_PARENT, BALANCER_FOLDERS)
        reading, writing = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-I", str(Path(reaper.__file__).resolve()), str(path)],
            stdin=reading,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(lock,),  # held until the reaper's end
        )
        os.close(lock)
        os.close(reading)
        os.set_inheritable(writing, True)
        return cls(path, process.pid, writing)

    def environment(self) -> dict[str, str]:
        """Returns the variables that `from_environment` needs after the exec."""
        return {_VARIABLE: f"{self.reaper_pid}:{self.reaper_fd}:{self.path}"}

    @classmethod
    def from_environment(cls) -> PrivateFolder:
        """Returns the folder that the launcher made. Children no longer inherit the descriptor."""
        pid, fd, path = os.environ.pop(_VARIABLE).split(":", 2)
        os.set_inheritable(int(fd), False)
        return cls(Path(path), int(pid), int(fd))

    def write_token(self, secret: str | None = None) -> Path:
        """Writes this secret, or a new one, to a file that only this user can read."""
        token = self.path / "token"
        token.touch(mode=0o600, exist_ok=False)
        token.write_text(secret or secrets.token_hex(32), encoding="ascii")
        return token

    def remove(self) -> None:
        """Ends every process that is left in the folder and removes it. Blocks until that is done."""
        os.chdir("/")  # otherwise the reaper would end this process too
        os.close(self.reaper_fd)
        os.waitpid(self.reaper_pid, 0)
