"""A throw-away Restate server, from its npm package."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from pathlib import Path

from tests.benchmarks.peers.installing import BUILD
from tests.servers import HOST, Server, free_port

SERVER = "node_modules/@restatedev/restate-server-*/bin/restate-server"

CONFIGURATION = """\
cluster-name = "benchmark"
node-name = "benchmark"
base-dir = "{folder}"
bind-ip = "{host}"
bind-port = {node}
listen-mode = "tcp"
disable-telemetry = true

[ingress]
bind-port = {ingress}

[admin]
bind-port = {admin}
"""


class RestateServer(Server):
    """One node with its defaults, which sync its log; its port is the ingress."""

    title = "Restate"
    package = "restate-server"

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def admin_url(self) -> str:
        return f"http://{HOST}:{self.admin_port}"

    @classmethod
    def find(cls) -> Path | None:
        program = next((BUILD / "restate").glob(SERVER), None)
        return program and program.parent

    def _command(self, programs: Path) -> list[str]:
        self.admin_port, node_port = free_port(), free_port()
        configuration = self.directory / "restate.toml"
        configuration.write_text(
            CONFIGURATION.format(
                folder=self.directory / "data",
                host=HOST,
                node=node_port,
                ingress=self.port,
                admin=self.admin_port,
            )
        )
        return [str(programs / "restate-server"), "--no-logo", f"--config-file={configuration}"]

    def _answers(self, pid: int) -> bool:
        try:
            with urllib.request.urlopen(f"{self.admin_url}/health", timeout=1) as answer:
                healthy = bool(answer.status == 200)
            with socket.create_connection((HOST, self.port), timeout=1):
                return healthy
        except (OSError, urllib.error.URLError):
            return False
