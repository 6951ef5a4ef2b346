"""The redis service's own command, run with the Redis or Valkey of this machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil
import pytest
from redis.exceptions import AuthenticationError, ConnectionError

from beatline.embedded.binaries import find_redis
from beatline.embedded.ports import free_port
from beatline.installation import RedisClient, connect_redis
from support.compose import SECRETS, read
from support.waiting import wait_until


def test_redis_starts_as_the_file_says_and_shows_its_password_to_nobody(tmp_path: Path) -> None:
    service = read({**SECRETS, "BEATLINE_REDIS_MAXMEMORY": "64mb"})["redis"]
    password = service.environment["REDISCLI_AUTH"]
    port = free_port()
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "redis-server").symlink_to(find_redis().server)
    # Only where it listens and writes is of this machine.
    here = f"redis-server - --port {port} --bind 127.0.0.1"
    command = [word.replace("redis-server -", here).replace("dir /data", f"dir {tmp_path}") for word in service.command]
    environment = {**os.environ, **service.environment, "PATH": f"{programs}:{os.environ['PATH']}"}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    client = connect_redis(f"redis://:{password}@127.0.0.1:{port}/0")
    try:
        wait_until(lambda: answers(client))
        said = {name: client.config_get(name) for name in ("appendonly", "maxmemory-policy", "maxmemory", "dir")}
        assert said == {
            "appendonly": {"appendonly": "yes"},
            "maxmemory-policy": {"maxmemory-policy": "noeviction"},
            "maxmemory": {"maxmemory": str(64 * 1024 * 1024)},
            "dir": {"dir": str(tmp_path)},
        }
        with pytest.raises(AuthenticationError):
            connect_redis(f"redis://127.0.0.1:{port}/0").ping()
        running = psutil.Process(server.pid)
        assert running.cmdline()[0].startswith("redis-server"), "signals reach the server itself"
        assert not any(password in word for word in running.cmdline())
    finally:
        client.close()
        server.terminate()
        assert server.wait(10) == 0


def answers(client: RedisClient) -> bool:
    try:
        return bool(client.ping())
    except ConnectionError:
        return False
