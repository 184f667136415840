"""Each peer's packages, fetched once and kept under the build folder, apart from everything else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.peers.catalogue import Peer
from tests.servers import tail

ROOT = Path(__file__).resolve().parents[3]
BUILD = ROOT / "build" / "peers"
INSTALL_SECONDS = 900.0


class NotInstallable(Exception):
    """The peer cannot be had here; the message says why."""


def interpreter(peer: Peer) -> Path:
    """The Python that has the peer, installed now unless it was before."""
    if not peer.requirements:
        return Path(sys.executable)
    folder = BUILD / peer.name
    python, stamp = folder / "venv" / "bin" / "python", folder / "installed"
    wanted = "\n".join([sys.version, *peer.requirements, *peer.files_of, *peer.npm_packages])
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        install(peer, folder, python)
        stamp.write_text(wanted)
    return python


def install(peer: Peer, folder: Path, python: Path) -> None:
    sys.stderr.write(f"Installing {peer.name} into {folder} ...\n")
    sys.stderr.flush()
    run([sys.executable, "-m", "venv", str(folder / "venv")])
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, *peer.requirements])
    if peer.files_of:
        run([*pip, "--no-deps", "--ignore-requires-python", *peer.files_of])
    if peer.npm_packages:
        install_from_npm(peer.npm_packages, folder)


def install_from_npm(packages: Sequence[str], folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise NotInstallable("npm is not installed")
    # Without scripts: the program comes in a package of its own, and nothing is reported home.
    options = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    run([npm, "install", "--prefix", str(folder), *options, *packages])


def packages(python: Path) -> dict[str, str]:
    """All that is installed beside a peer, with what it asked for itself."""
    listing = subprocess.run(
        [str(python), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    return {found["name"]: found["version"] for found in json.loads(listing.stdout or b"[]")}


def run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INSTALL_SECONDS,
        )
    except subprocess.TimeoutExpired as late:
        raise NotInstallable(f"`{' '.join(command)}` took too long") from late
    if done.returncode:
        said = "\n".join(textwrap.shorten(line, 200) for line in tail(done.stdout).splitlines())
        raise NotInstallable(f"`{' '.join(command)}` failed:\n{said}")
