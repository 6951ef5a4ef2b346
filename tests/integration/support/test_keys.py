"""The check for keys that a test leaves behind finds them, and lets the rest be."""

from __future__ import annotations

from beatline.names import Keys
from support import keys, servers


def test_only_a_key_that_lives_for_ever_and_is_not_declared_has_leaked(own_redis: servers.Server) -> None:
    names = Keys("{mine}:")
    with keys.connect(own_redis.url) as client:
        for name in (names.leases, names.queue("email"), names.queue("email") + "\x06\x169", names.queue("foreign"),
                     names.redbeat + "entry", names.prefix + "_kombu.binding.x", names.prefix + "forgotten"):  # fmt: skip
            client.set(name, 1)
        client.set(names.run("short"), 1, ex=60)
        client.set("{other}:forgotten", 1)

    assert keys.leaked(own_redis.url, names, ["foreign"]) == ["{mine}:forgotten"]
    assert keys.leaked(own_redis.url, names) == ["{mine}:foreign", "{mine}:forgotten"]
    assert keys.strays(own_redis.url, names.prefix) == ["{other}:forgotten"]


def test_a_prefix_is_taken_literally(own_redis: servers.Server) -> None:
    with keys.connect(own_redis.url) as client:
        client.set("{a*}:x", 1)
        client.set("{ab}:x", 1)
        keys.remove(own_redis.url, "{a*}:")
        assert client.keys() == ["{ab}:x"]


def test_a_killed_server_comes_back_with_its_data_and_its_address(own_redis: servers.Server) -> None:
    url = own_redis.url
    with keys.connect(url) as client:
        client.set("kept", 1)
        own_redis.kill()
        own_redis.start()
        assert own_redis.url == url
        assert client.get("kept") == "1"
