"""What is taken as one SELECT, and what is not."""

from __future__ import annotations

import pytest

from beatline.selects import bare, change_code, literal, one_select


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "  -- why\n with x as (select ';') select * from x",
        "/* a /* nested ; */ comment */ SELECT $$ ; ) $$, $tag$ ' $tag$",
        "SELECT E'it\\'s; (', 'it''s; (', \"a;\"\"(\"",
        "(SELECT 1) UNION (SELECT 2)",
        "VALUES (1), (2)",
        "SELECT a$b FROM input -- ;",
        "SELECT '\\' AS one_backslash",
        "SELECT price > 5, a::text, $1",
        "SELECT größe, ñ$a FROM eingäbe",
        "SELECT $$a;b$$, $größe$;)$größe$",
        "SELECT E'\\';', e'\\\\', name'x'",
        "SELECT 1 --)\r\n, 2",
        "SELECT E'a' -- goes on\n '\\';'",
        "WITH delete AS (SELECT 1), x AS (SELECT 2) (SELECT * FROM x)",
    ],
)
def test_one_select_is_taken_as_it_is(sql: str) -> None:
    assert one_select(sql) == sql


def test_a_semicolon_at_the_end_is_left_out() -> None:
    assert one_select("SELECT 1 ; -- done\n /* really */ ") == "SELECT 1 "


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT 1; DROP TABLE x", "second statement"),
        ("SELECT 1;;", "second statement"),
        ("SELECT 1) AS x; DROP TABLE y; SELECT (1", "closes a parenthesis"),
        ("SELECT (1", "does not close"),
        ("DELETE FROM x", "begins with 'delete'"),
        ("", "is empty"),
        ("-- SELECT 1", "is empty"),
        ("SELECT 'open", "has a ' that is not closed"),
        ('SELECT "open', 'has a " that is not closed'),
        ("SELECT $a$ open $b$", r"has a \$a\$ that is not closed"),
        ("SELECT 1 /* open /* */", r"has a /\* that is not closed"),
        ("SELECT E'\\'; DROP TABLE x; --'; DROP TABLE y", "second statement"),
        ("SELECT '\\'; DROP TABLE x; --'", "second statement"),
        ("SELECT a$$; DROP TABLE x; $$", "second statement"),
        ("SELECT 1 --\r) AS x; COMMIT; SELECT * FROM (SELECT 1", "closes a parenthesis"),
        ("SELECT 1 AS €$$) AS x; COMMIT; SELECT 1 AS €$$", "closes a parenthesis"),
        ("SELECT name'\\'; COMMIT; SELECT 2; --'", "second statement"),
        ("SELECT E'a'\n'\\' '; COMMIT; --'", "second statement"),
        ("SELECT E'a' --\r '\\' '; COMMIT; --'", "second statement"),
        ("SELECT (1\x1c--\x85)", "does not close"),
        ("WITH x AS (SELECT 1) DELETE FROM y", "after WITH it goes on with 'DELETE'"),
        ("; ", "is empty"),
        ("SELECT 1\x00", "NUL"),
        ("SELECT " + "1" * 100_000, "at most 100,000"),
    ],
)
def test_anything_else_is_refused(sql: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        one_select(sql)


def test_only_what_is_no_text_is_changed() -> None:
    sql = """SELECT :a, ':a', ":a", $$:a$$, E'\\':a' -- :a\n, /* :a */ x:a FROM €$$"""
    assert change_code(sql, lambda code: code.replace(":a", "1")) == (
        """SELECT 1, ':a', ":a", $$:a$$, E'\\':a' -- :a\n, /* :a */ x1 FROM €$$"""
    )
    assert bare("a'b'--c") == "a" + " " * 6
    with pytest.raises(ValueError, match="not closed"):
        bare("'")


def test_a_literal_means_the_same_to_every_session() -> None:
    assert literal("it's \\ so") == "E'it''s \\\\ so'"
