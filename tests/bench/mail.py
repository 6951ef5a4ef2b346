"""Case mail: 100 mailboxes with 20 messages of 20 KB each, on a real Dovecot that is 0 or 50 ms away.

Baseline: one APScheduler process with one thread, and beside it APScheduler with its ten (bench/mail_competitor.py says
what is done for it). Ours: `email.poll_account` on one worker process and on five, as the queue table starts them, with a
recorder. Everybody is warm, has fresh mailboxes, and writes into the same PostgreSQL. Time runs from when the first
poll is due (for ours: from before the first run is published) until the rows of all 2,000 messages are committed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg2

from beatline.app import create_app
from beatline.clock import monotonic_s
from beatline.definitions import specs, store
from beatline.families import kinds
from beatline.installation import Installation
from beatline.queues.command import worker_command
from beatline.queues.topology import TOPOLOGY
from bench import mail_competitor
from bench.cpu import Meter
from bench.machine import Machine
from bench.record import Record, Round, Sample
from support.delay import far_away
from support.dovecot import ImapServer, imap_server
from support.processes import Spawned
from support.waiting import wait_until

TESTS: Final = Path(__file__).resolve().parent.parent
MAILBOXES: Final = 100
MESSAGES: Final = 20
BYTES: Final = 20_000
ROUNDS: Final = 3
MUST: Final = 6.25
WARM: Final = 50
LIMIT_S: Final = 180.0

GUARANTEES: Final = {
    "ours": "lease and fence on each poll, a history of every run, one poll per mailbox, sizes before bodies, quarantine, "
    "cursor in the rows' transaction, each message handed on to the queue workflow; at most 100 connections to the host",
    "baseline": "cursor in the rows' transaction; no overlap in one process; no history, nothing survives the process",
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One system's turn."""

    seconds: float
    cpu_s: Mapping[str, float]
    others: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where the mailboxes are, seen from one side of the delay."""

    machine: Machine
    server: ImapServer
    port: int

    def filled(self) -> list[str]:
        """New users with all their messages."""
        users = [self.server.user("bench") for _ in range(MAILBOXES)]
        for user in users:
            self.server.deliver(user, *[message(user, number) for number in range(MESSAGES)])
        return users


def run(machine: Machine) -> Sequence[Record]:
    """Both distances; at each, four systems in turn, the order changing each round."""
    with tempfile.TemporaryDirectory(prefix="beatline-bench-mail-") as folder, imap_server(Path(folder)) as server:
        records: list[Record] = []
        for round_trip_ms, must in ((0, 0.0), (50, MUST)):
            with ExitStack() as stack:
                port = (
                    stack.enter_context(far_away(server.port, round_trip_ms / 1000)) if round_trip_ms else server.port
                )
                records.append(_measured(Place(machine, server, port), round_trip_ms, must))
    return records


def message(user: str, number: int) -> bytes:
    """A plain one: what differs between the systems is how they wait, not what they parse."""
    head = (
        f"From: sender@example.org\r\nTo: {user}@example.org\r\nSubject: Message {number}\r\n"
        f"Date: Mon, 12 Feb 2024 10:00:{number:02} +0000\r\nMessage-ID: <{user}.{number}@example.org>\r\n"
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
    ).encode()
    line = b"The quick brown fox jumps over the lazy dog, and the dog does not mind at all.\r\n"
    return head + line * ((BYTES - len(head)) // len(line))


def _measured(place: Place, round_trip_ms: int, must: float) -> Record:
    rounds: list[Round] = []
    for number in range(ROUNDS):
        turns = [("one thread", 1), ("ten threads", 10), ("one process", 1), ("five processes", 5)]
        found: dict[str, Measured] = {}
        for name, count in turns if number % 2 else reversed(turns):
            turn = _ours if name.endswith(("process", "processes")) else _competitor
            found[name] = turn(place, count)
            sys.stderr.write(f"  {round_trip_ms} ms, {name}: {found[name].seconds:.2f} s\n")
        ours = _sample(found["five processes"], seconds_with_one_process=found["one process"].seconds)
        baseline = _sample(found["one thread"], seconds_with_ten_threads=found["ten threads"].seconds)
        rounds.append(Round(ours, baseline, max(one.others for one in found.values())))
    return Record(
        case=f"mail@{round_trip_ms}ms",
        unit="messages/s",
        must=must,
        command="make bench CASE=mail",
        guarantees=GUARANTEES,
        rounds=rounds,
    )


def _sample(measured: Measured, **more: float) -> Sample:
    cpu_s = {f"cpu_s_{who}": seconds for who, seconds in measured.cpu_s.items()}
    details = {"seconds": measured.seconds, **more, **cpu_s}
    return Sample(MAILBOXES * MESSAGES / measured.seconds, details)


def _competitor(place: Place, threads: int) -> Measured:
    users, machine = place.filled(), place.machine
    with psycopg2.connect(machine.postgres.url) as connection, connection.cursor() as cursor:
        cursor.execute(mail_competitor.TABLES)
    connection.close()
    given = {
        "database_url": machine.postgres.url, "host": place.server.host, "port": place.port, "users": users,
        "password": place.server.password, "warm_users": [place.server.user("warm") for _ in range(2 * threads)],
        "threads": threads,
    }  # fmt: skip
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(given, file)
        file.flush()
        process = machine.spawner.spawn("bench.mail_competitor", file.name, env={"PYTHONPATH": str(TESTS)})
        due_s = float(process.wait_for(r"ready ([\d.]+)")[1])
    wait_until(lambda: monotonic_s() >= due_s, LIMIT_S, every_s=0.001, what="the polls are due")
    meter = Meter({"competitor": process.pid, **machine.server_pids()})
    counted = "SELECT count(*) FROM competitor_messages WHERE mailbox = ANY(%s)"
    try:
        return _wait(place, meter, due_s, counted, users)
    finally:
        process.stop()
        _forget(place, users)


def _ours(place: Place, processes: int) -> Measured:
    users, machine = place.filled(), place.machine
    settings = machine.settings.model_copy(
        update={"allow_private_addresses": True, "email_connections_per_host": 100, "task_modules": ()}
    )
    installation = Installation(settings)
    warm = [_define(installation, place, place.server.user("warm")) for _ in range(WARM)]
    ids = [_define(installation, place, user) for user in users]
    recorder = machine.spawner.spawn("beatline.cli", "recorder", settings=settings)
    (queue,) = (queue for queue in TOPOLOGY if queue.name == "email")
    command = [worker_command("beatline", f"mail{number}", [queue]) for number in range(processes)]
    workers = [machine.spawner.spawn(*one[1:], "--loglevel", "WARNING", settings=settings) for one in command]
    app = create_app(settings)
    try:
        _warm_up(app, warm, processes)
        meter = Meter(_pids(machine, recorder, workers))
        due_s = monotonic_s()
        _publish(app, ids)
        counted = "SELECT count(*) FROM beatline.email_messages WHERE mailbox = ANY(%s::uuid[])"
        return _wait(place, meter, due_s, counted, ids)
    finally:
        for one in (*workers, recorder):
            one.stop()
        app.close()
        installation.redis.close()
        installation.engine.dispose()
        machine.redis.flushdb()  # what the queue workflow was handed, which nobody takes here
        _forget(place, users)


def _define(installation: Installation, place: Place, user: str) -> str:
    spec = {
        "host": place.server.host, "port": place.port, "security": "plain", "user": user,
        "password": place.server.password, "timeouts": {"read_s": 60},
    }  # fmt: skip
    checked = specs.check(kinds()["mailbox"], user, spec)
    with installation.engine.begin() as conn:
        return str(store.add(conn, "mailbox", user, checked, lambda: installation.keyring, who="bench").id)


def _publish(app: Any, ids: Sequence[str]) -> None:
    with app.connection_for_write() as connection, connection.Producer() as producer:
        for one in ids:
            app.send_task("email.poll_account", (one,), producer=producer)


def _warm_up(app: Any, ids: Sequence[str], processes: int) -> None:
    """Poll empty mailboxes until every process has polled some."""
    inspect = app.control.inspect(timeout=2.0)

    def all_have() -> bool:
        seen: dict[str, Any] = inspect.stats() or {}
        done = [one["total"].get("email.poll_account", 0) for one in seen.values()]
        if len(done) < processes:
            return False
        if min(done) < 5:
            _publish(app, ids)
            return False
        return True

    wait_until(all_have, LIMIT_S, every_s=1.0, what="every worker process has polled")
    wait_until(lambda: not any((inspect.active() or {"": ["?"]}).values()), LIMIT_S, every_s=0.2, what="all is quiet")


def _pids(machine: Machine, recorder: Spawned, workers: Sequence[Spawned]) -> dict[str, int]:
    named = {f"worker{number}": one.pid for number, one in enumerate(workers)}
    return {**named, "recorder": recorder.pid, **machine.server_pids()}


def _wait(place: Place, meter: Meter, due_s: float, counted: str, whose: Sequence[str]) -> Measured:
    connection = psycopg2.connect(place.machine.postgres.url)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:

            def all_there() -> bool:
                cursor.execute(counted, (list(whose),))
                (number,) = cursor.fetchone() or (0,)
                return bool(number == MAILBOXES * MESSAGES)

            wait_until(all_there, LIMIT_S, every_s=0.02, what="every message is stored")
        seconds = monotonic_s() - due_s
    finally:
        connection.close()
    used: dict[str, float] = {}
    for name, cpu_s in meter.used_s().items():
        who = name.rstrip("0123456789")
        used[who] = used.get(who, 0.0) + cpu_s
    return Measured(seconds, used, meter.others_share())


def _forget(place: Place, users: Sequence[str]) -> None:
    for user in users:
        place.server.remove(user)
