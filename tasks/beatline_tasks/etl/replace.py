"""Mode replace: the table is built aside and takes the place of the one that stands, in the load's transaction.

Kept: the name, owner, grants on the table and its columns, indexes, constraints, defaults and comments. What hangs on
the table itself and cannot move (views, foreign keys, triggers, policies, publications, partitions, sequences,
storage parameters) is kept by exchanging the rows instead: deleted and inserted, in the same transaction.
"""

from __future__ import annotations

from typing import Final

from beatline.ledger.database import quoted
from beatline_tasks.etl.contract import Plan
from beatline_tasks.etl.errors import JobError
from beatline_tasks.etl.session import Session, Table
from beatline_tasks.etl.target import change, columns_of, names

_WHAT: Final = "The replacement"
_HANGS_ON: Final = """
    WITH t AS (SELECT * FROM pg_class WHERE oid = to_regclass({table}))
    SELECT 'the view ' || CAST(CAST(w.ev_class AS regclass) AS text) || ' reads it'
    FROM t JOIN pg_depend d ON d.refclassid = CAST('pg_class' AS regclass) AND d.refobjid = t.oid
    JOIN pg_rewrite w ON d.classid = CAST('pg_rewrite' AS regclass) AND w.oid = d.objid AND w.ev_class <> t.oid
    UNION SELECT 'the rule ' || w.rulename || ' is on it' FROM t JOIN pg_rewrite w ON w.ev_class = t.oid
    UNION SELECT 'the foreign key ' || k.conname || ' is on it' FROM t
        JOIN pg_constraint k ON k.contype = 'f' AND t.oid IN (k.conrelid, k.confrelid)
    UNION SELECT 'the trigger ' || g.tgname || ' is on it' FROM t
        JOIN pg_trigger g ON g.tgrelid = t.oid AND NOT g.tgisinternal
    UNION SELECT 'it has row security' FROM t WHERE t.relrowsecurity OR EXISTS (SELECT FROM pg_policy WHERE polrelid = t.oid)
    UNION SELECT 'the publication ' || p.pubname || ' has it' FROM t
        JOIN pg_publication_rel r ON r.prrelid = t.oid JOIN pg_publication p ON p.oid = r.prpubid
    UNION SELECT 'it is partitioned or inherits' FROM t
        WHERE t.relkind = 'p' OR EXISTS (SELECT FROM pg_inherits WHERE t.oid IN (inhrelid, inhparent))
    UNION SELECT 'the sequence ' || CAST(CAST(d.objid AS regclass) AS text) || ' is its own' FROM t
        JOIN pg_depend d ON d.refclassid = CAST('pg_class' AS regclass) AND d.refobjid = t.oid
        AND d.classid = CAST('pg_class' AS regclass) AND d.deptype IN ('a', 'i')
        JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
    UNION SELECT 'it has storage parameters' FROM t
        WHERE t.reloptions IS NOT NULL OR t.relreplident <> 'd' OR t.relpersistence <> 'p' OR t.reltablespace <> 0
    LIMIT 1
"""
_CASCADES: Final = """
    WITH RECURSIVE t AS (
        SELECT to_regclass({table})::oid AS oid UNION SELECT i.inhrelid FROM t JOIN pg_inherits i ON i.inhparent = t.oid
    )
    SELECT CAST(CAST(k.conrelid AS regclass) AS text), k.conname, k.confdeltype FROM pg_constraint k
    WHERE k.contype = 'f' AND k.confdeltype IN ('c', 'n', 'd')
        AND k.confrelid IN (SELECT oid FROM t) AND k.conrelid NOT IN (SELECT oid FROM t)
    ORDER BY k.conparentid, k.conname LIMIT 1
"""
_ACTIONS: Final = {"c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}
_GRANTS: Final = """
    SELECT privilege_type, NULL, CASE grantee WHEN 0 THEN NULL ELSE pg_get_userbyid(grantee) END, is_grantable
    FROM pg_class c, aclexplode(c.relacl) WHERE c.oid = to_regclass({table}) AND grantee <> c.relowner
    UNION ALL
    SELECT privilege_type, attname, CASE grantee WHEN 0 THEN NULL ELSE pg_get_userbyid(grantee) END, is_grantable
    FROM pg_attribute a, aclexplode(a.attacl) WHERE a.attrelid = to_regclass({table}) AND NOT attisdropped
"""
_INDEXES: Final = """
    SELECT c.relname, i.indisunique, i.indisprimary, regexp_replace(pg_get_indexdef(i.indexrelid), '^.*? USING ', '')
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = to_regclass({table}) ORDER BY c.oid
"""


def refuse_cascades(session: Session, table: Table) -> None:
    """Return only if deleting the table's rows touches no row of another. Raises JobError that names both."""
    named = session.let("table", table.sql)
    found = session.rows(_CASCADES.format(table=named))
    if found:
        child, constraint, action = found[0]
        raise JobError(
            f"Mode replace deletes the rows of {table}, and the foreign key {constraint} of {child} has ON DELETE "
            f"{_ACTIONS[action]}: rows of {child} would go or change with them. Use mode upsert, or change the foreign "
            "key to NO ACTION DEFERRABLE INITIALLY DEFERRED."
        )


def build_aside(session: Session, table: Table, name: str, plan: Plan) -> Table:
    """An empty table like the one that stands, changed as planned. Raises JobError as `refuse_cascades` does."""
    refuse_cascades(session, table)
    aside = Table(table.schema, name)
    session.run(f"CREATE TABLE {aside.sql} (LIKE {table.sql} INCLUDING ALL)", what=f"Building {table} aside")
    change(session, aside, plan)
    return aside


def put_in_place(session: Session, table: Table, aside: Table, plan: Plan) -> str:
    """Let the table hold what was built aside, and nothing else; says how that was done."""
    named = session.let("table", table.sql)
    hanging = session.rows(_HANGS_ON.format(table=named))
    if not hanging:
        try:
            with session.attempt():
                _exchange_tables(session, table, aside)
        except JobError as exc:
            hanging = [(str(exc),)]
        else:
            return "the table was exchanged; owner, grants, indexes, constraints, defaults and comments were kept"
    change(session, table, plan)
    columns = names(name for name, column in (columns_of(session, table) or {}).items() if not column.fixed)
    session.run(f"LOCK TABLE {table.sql} IN ROW EXCLUSIVE MODE", what=_WHAT)  # no foreign key can come from here on
    refuse_cascades(session, table)
    session.run(f"DELETE FROM {table.sql}", what=_WHAT)
    session.run(f"INSERT INTO {table.sql} ({columns}) SELECT {columns} FROM {aside.sql}", what=_WHAT)
    session.run(f"DROP TABLE {aside.sql}", what=_WHAT)
    return f"the rows were exchanged, and all that hangs on the table was kept: {hanging[0][0]}"


def _exchange_tables(session: Session, table: Table, aside: Table) -> None:
    named = session.let("table", table.sql)
    owner, comment = session.one(
        "SELECT pg_get_userbyid(relowner), obj_description(oid, 'pg_class') "
        f"FROM pg_class WHERE oid = to_regclass({named})"
    )
    grants = session.rows(_GRANTS.format(table=named))
    indexes = session.rows(_INDEXES.format(table=named))
    new = session.let("aside", aside.sql)
    granted_by_default = session.rows(_GRANTS.format(table=new))
    renames = _pairs(indexes, session.rows(_INDEXES.format(table=new)))
    session.run(f"DROP TABLE {table.sql}", what=_WHAT)
    session.run(f"ALTER TABLE {aside.sql} RENAME TO {quoted(table.name)}", what=_WHAT)
    for before, after in renames:
        session.run(f"ALTER INDEX {quoted(table.schema)}.{quoted(before)} RENAME TO {quoted(after)}", what=_WHAT)
    for role in {grant[2] for grant in granted_by_default}:
        session.run(f"REVOKE ALL ON {table.sql} FROM {_role(role)}", what=_WHAT)
    for privilege, column, role, again in grants:
        of = f" ({quoted(column)})" if column else ""
        more = " WITH GRANT OPTION" if again else ""
        session.run(f"GRANT {privilege}{of} ON {table.sql} TO {_role(role)}{more}", what=_WHAT)
    if comment is not None:
        text = session.let("comment", comment)
        literal = session.one(f"SELECT quote_literal({text})")[0]
        session.run(f"COMMENT ON TABLE {table.sql} IS {literal}", what=_WHAT)
    if session.one("SELECT current_user")[0] != owner:
        session.run(f"ALTER TABLE {table.sql} OWNER TO {quoted(owner)}", what=_WHAT)


def _pairs(indexes: list[tuple[object, ...]], new: list[tuple[object, ...]]) -> list[tuple[str, str]]:
    """The new table's indexes with the names that they take over."""
    left = list(new)
    pairs: list[tuple[str, str]] = []
    for name, *definition in indexes:
        twin = next((one for one in left if list(one[1:]) == definition), None)
        if twin is not None:
            left.remove(twin)
            pairs.append((str(twin[0]), str(name)))
    return pairs


def _role(name: object) -> str:
    return "PUBLIC" if name is None else quoted(str(name))
