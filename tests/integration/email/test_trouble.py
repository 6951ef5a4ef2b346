"""What goes wrong with a mailbox is told apart, slows down that mailbox, and no other."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest

from beatline.clock import utc_now
from beatline.errors import AddressRefusedError, SecretError, TransientError
from beatline_tasks.email.errors import HostBusyError, MailboxError, MailError, Trouble
from support.apps import open_app
from support.imap_script import scripted_imap
from support.mails import mail

if TYPE_CHECKING:
    from beatline.installation import Installation
    from support.dovecot import ImapServer
    from support.serving import MakeSettings


def fails(poll: Any, name: str, words: str) -> Trouble:
    """What kind of trouble a poll ends in; its text holds these words, and no secret."""
    with pytest.raises(MailError, match=words) as caught:
        poll(name)
    assert "hunter2" not in str(caught.value)
    return caught.value.trouble


def test_a_refused_login_is_left_alone_until_the_mailbox_is_changed(
    dovecot: ImapServer, add_mailbox: Any, poll: Any, rows: Any, installed: Installation
) -> None:
    from beatline.definitions import specs, store
    from beatline.families import kinds

    user = dovecot.user()
    dovecot.deliver(user, mail("waiting"))
    box = add_mailbox(user, password="hunter2")
    assert fails(poll, user, r"failed to log in.*Correct user and password") is Trouble.LOGIN
    [account] = rows("email_accounts", "mailbox")
    assert (account["state"], account["failures"]) == ("login refused", 1)
    assert (account["next_try_at"] - utc_now()).total_seconds() > 800
    assert poll(user) == "backing off"

    raw = {**box.spec, "password": dovecot.password}
    with installed.engine.begin() as conn:
        store.update_spec(conn, box, specs.check(kinds()["mailbox"], user, raw), lambda: installed.keyring, who="test")
    assert poll(user)["new"] == 1
    [account] = rows("email_accounts", "mailbox")
    assert (account["state"], account["failures"], account["next_try_at"], account["error"]) == ("ok", 0, None, None)


@pytest.mark.parametrize(
    ("says", "trouble", "words"),
    [
        ({"LOGIN": "{tag} NO [AUTHENTICATIONFAILED] no"}, Trouble.LOGIN, "no"),
        ({"LOGIN": "{tag} NO nothing more"}, Trouble.LOGIN, "nothing more"),
        ({"LOGIN": "{tag} NO [UNAVAILABLE] the directory is away"}, Trouble.THROTTLED, "directory"),
        ({"LOGIN": "{tag} NO [LIMIT] slow down"}, Trouble.THROTTLED, "slow down"),
        ({"LOGIN": "{tag} NO [INUSE] a session has it"}, Trouble.THROTTLED, "session"),
        ({"LOGIN": "{tag} NO [ALERT] Too many simultaneous connections."}, Trouble.THROTTLED, "Too many"),
        ({"GREETING": "* BYE [LIMIT] not now"}, Trouble.THROTTLED, "not now"),
        ({"LOGIN": "* BYE Maximum number of connections exceeded"}, Trouble.THROTTLED, "Maximum number"),
        ({"LOGIN": "hang up"}, Trouble.NETWORK, "socket error"),
        ({"LOGIN": "{tag} BAD what"}, Trouble.PROTOCOL, "what"),
        ({"GREETING": "220 smtp.example.com ESMTP"}, Trouble.PROTOCOL, "IMAP server"),
        ({"EXAMINE": "{tag} NO [NONEXISTENT] no such folder"}, Trouble.PROTOCOL, "no such folder"),
        ({"EXAMINE": "* 3 EXISTS\r\n{tag} OK done"}, Trouble.PROTOCOL, "no UIDVALIDITY"),
        ({"CAPABILITY": "* CAPABILITY IMAP4rev1 LOGINDISABLED\r\n{tag} OK done"}, Trouble.LOGIN, "starttls"),
        (
            {"EXAMINE": "* 1 EXISTS\r\n* OK [UIDVALIDITY 1]\r\n* OK [UIDNEXT 2]\r\n{tag} OK done",
             "UID FETCH": "* 1 FETCH (UID 1 BODY[] {99999999999}\r\nx)\r\n{tag} OK done"},
            Trouble.PROTOCOL, "more than it was asked for",
        ),
    ],
)  # fmt: skip
def test_what_a_server_says_is_told_apart(
    add_mailbox: Any, poll: Any, rows: Any, says: dict[str, str], trouble: Trouble, words: str
) -> None:
    with scripted_imap(says) as server:
        add_mailbox("box", host="127.0.0.1", port=server.port, password="hunter2")
        assert fails(poll, "box", words) is trouble
        asked = len(server.heard)
        assert poll("box") == "backing off"
        assert len(server.heard) == asked
    [account] = rows("email_accounts", "mailbox")
    assert account["state"] == str(trouble)
    assert words in account["error"]


def test_a_server_that_falls_silent_is_cut_off(add_mailbox: Any, poll: Any) -> None:
    with scripted_imap({"LOGIN": "* OK still there"}) as server:  # and never an end
        add_mailbox("box", host="127.0.0.1", port=server.port, timeouts={"read_s": 0.2})
        assert fails(poll, "box", "did not answer in time") is Trouble.NETWORK


def test_a_dead_server_is_tried_by_one_and_the_others_know(
    own_dovecot: ImapServer, dovecot: ImapServer, add_mailbox: Any, poll: Any, rows: Any, installed: Installation
) -> None:
    dead = {"host": own_dovecot.host, "port": own_dovecot.port}
    own_dovecot.stop()
    for name in ("dead-1", "dead-2"):
        add_mailbox(name, **dead, password="hunter2")
    user = dovecot.user()
    add_mailbox(user)
    assert fails(poll, "dead-1", "failed to connect: Connection refused") is Trouble.NETWORK
    assert poll("dead-2") == "host down"
    assert poll(user)["new"] == 0
    states = {(row["state"], row["failures"]) for row in rows("email_accounts", "mailbox")}
    assert states == {("network", 1), ("network", 0), ("ok", 0)}

    own_dovecot.start()
    key = installed.keys.email_down(f"{own_dovecot.host}:{own_dovecot.port}")
    assert 0 < installed.redis.ttl(key) <= 600
    installed.redis.hset(key, "next", 1)  # half a minute later
    with pytest.raises(MailError) as caught:
        poll("dead-2")
    assert caught.value.trouble is Trouble.LOGIN  # it answers again, if only to refuse
    assert not installed.redis.exists(key)


def test_connections_to_a_host_are_capped_over_all_workers(
    dovecot: ImapServer, make_settings: MakeSettings, add_mailbox: Any, installed: Installation
) -> None:
    from beatline.definitions import open_spec
    from beatline.installation import Installation as Another
    from beatline_tasks.email.gate import admitted
    from beatline_tasks.email.mailbox import Mailbox

    mailbox = open_spec(installed, add_mailbox("box"), Mailbox)
    other = Another(make_settings(email_connections_per_host=2))
    with admitted(installed, mailbox), admitted(other, mailbox):
        with pytest.raises(HostBusyError, match="all 2 connections"), admitted(other, mailbox):
            pass
        key = installed.keys.email_connections(mailbox.host)
        assert installed.redis.zcard(key) == 2
        assert installed.redis.pttl(key) > 0
        for token in installed.redis.zrange(key, 0, -1):
            installed.redis.zadd(key, {token: 1})  # a killed worker's place expires
        with admitted(other, mailbox) as down:
            assert down is None
    assert not installed.redis.exists(key)


def test_a_dead_server_is_left_alone_by_the_clock_of_redis(
    own_dovecot: ImapServer, add_mailbox: Any, poll: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from beatline_tasks.email import gate

    # A worker whose clock is behind must not have the server tried by everybody, nor for ever by nobody.
    monkeypatch.setattr(gate, "utc_now", lambda: utc_now() - timedelta(hours=1), raising=False)
    own_dovecot.stop()
    for name in ("dead-1", "dead-2"):
        add_mailbox(name, host=own_dovecot.host, port=own_dovecot.port)
    assert fails(poll, "dead-1", "failed to connect") is Trouble.NETWORK
    assert poll("dead-2") == "host down"


def test_a_poll_waits_a_few_times_for_a_full_host_and_then_leaves_it_to_the_next(
    dovecot: ImapServer, make_settings: MakeSettings, add_mailbox: Any, installed: Installation
) -> None:
    from beatline.definitions import open_spec
    from beatline.installation import Installation as Another
    from beatline_tasks.email.gate import admitted
    from beatline_tasks.email.mailbox import Mailbox

    settings = make_settings(email_connections_per_host=1, allow_private_addresses=True)
    box = add_mailbox(dovecot.user())
    with open_app(settings) as app, admitted(Another(settings), open_spec(installed, box, Mailbox)):
        done = app.tasks["email.poll_account"].apply(args=(box.name,))
    assert done.get(disable_sync_subtasks=False) == "host busy"


def test_a_second_attempt_that_finds_the_lock_of_the_first_comes_back(
    dovecot: ImapServer, add_mailbox: Any, app: Any, installed: Installation
) -> None:
    from celery import _state

    from beatline.engine import headers as h
    from beatline_tasks.email.lock import mailbox_lock

    box = add_mailbox(dovecot.user())
    stack, task = cast("Any", _state)._task_stack, app.tasks["email.poll_account"]

    def attempt(number: int) -> Any:
        stack.push(task)
        task.push_request(id="run", **{h.ATTEMPT: number})
        try:
            return task.run(box.name)
        finally:
            task.pop_request()
            stack.pop()

    with mailbox_lock(installed.engine, box.id):
        assert attempt(1) == "busy"
        with pytest.raises(TransientError, match="being polled") as caught:
            attempt(2)
    assert caught.value.retry_after_s == 30
    assert attempt(2)["new"] == 0


@pytest.mark.parametrize("met", ["a dead host", "a token"])
def test_a_change_of_the_mailbox_ends_its_back_off_whatever_the_next_poll_meets(
    add_mailbox: Any, poll: Any, rows: Any, installed: Installation, met: str
) -> None:
    from beatline.definitions import specs, store
    from beatline.families import kinds
    from beatline_tasks.email import accounts
    from beatline_tasks.email.oauth import Tokens

    with scripted_imap({"LOGIN": "{tag} NO [AUTHENTICATIONFAILED] no"}) as server:
        for name in ("box", "other"):
            add_mailbox(name, host="127.0.0.1", port=server.port, password="hunter2")
        assert fails(poll, "box", "no") is Trouble.LOGIN
    assert fails(poll, "other", "failed to connect") is Trouble.NETWORK
    with installed.engine.begin() as conn:
        box = store.get(conn, "mailbox", "box")
        checked = specs.check(kinds()["mailbox"], "box", {**box.spec, "password": "right now"})
        changed = store.update_spec(conn, box, checked, lambda: installed.keyring, who="test")
        if met == "a token":
            accounts.keep_token(conn, installed, changed, Tokens("access", utc_now(), None, "box"))
    if met == "a dead host":
        assert poll("box") == "host down"
    account = next(row for row in rows("email_accounts", "mailbox") if row["mailbox"] == box.id)
    assert (account["version"], account["failures"], account["next_try_at"]) == (2, 0, None)


def test_tls_and_starttls_are_verified(
    dovecot: ImapServer, add_mailbox: Any, poll: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from beatline_tasks.email.wire import tls_context

    user = dovecot.user()
    dovecot.deliver(user, mail("one"))
    add_mailbox("tls", user=user, host="localhost", port=dovecot.tls_port, security="tls")
    add_mailbox("starttls", user=user, host="localhost", security="starttls")
    add_mailbox("mixed-up", user=user, host="localhost", security="tls")
    add_mailbox("untrusted", user=user, host="localhost", port=dovecot.tls_port, security="tls")
    assert poll("tls")["new"] == 1
    assert poll("starttls")["new"] == 1
    assert fails(poll, "mixed-up", "host, port and security") is Trouble.PROTOCOL
    monkeypatch.delenv("SSL_CERT_FILE")
    tls_context.cache_clear()
    assert fails(poll, "untrusted", "certificate that cannot be verified") is Trouble.NETWORK
    tls_context.cache_clear()


def test_a_private_address_is_refused_unless_allowed(
    add_mailbox: Any, make_settings: MakeSettings, app: Any, dovecot: ImapServer
) -> None:
    from beatline.installation import Installation as Another
    from beatline_tasks.email import polling

    add_mailbox("box")
    with pytest.raises(AddressRefusedError, match="BEATLINE_ALLOW_PRIVATE_ADDRESSES"):
        polling.poll(Another(make_settings()), app, "box")


def test_a_mailbox_whose_secret_does_not_open_is_parked(
    add_mailbox: Any, make_settings: MakeSettings, app: Any, poll: Any
) -> None:
    from beatline.installation import Installation as Another
    from beatline_tasks.email import polling

    add_mailbox("box")
    settings = make_settings(allow_private_addresses=True)
    key_id = Another(settings).keyring.first
    foreign = Another(settings.replaced(secret_keys=f"{key_id}:" + "A" * 43 + "="))
    with pytest.raises(SecretError, match="does not open"):
        polling.poll(foreign, app, "box")
    with pytest.raises(MailboxError, match="is parked"):
        poll("box")
