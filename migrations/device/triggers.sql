-- The capture triggers of one table. They run in any program and any SQLite
-- version: no JSON, no functions, no conflict clauses (an `INSERT OR REPLACE`
-- of the application overrides those of its triggers), only plain inserts that
-- cannot conflict.
-- {table}, {key}: quoted names; {row_columns}: r."a", r."b", …; {old_columns}:
-- OLD."a", …; {insert_victims}, {update_victims}: which rows r a REPLACE would
-- remove; {update_may_replace}: whether the update touches a unique value;
-- {rowid}: a name of the row number, in tables that have one.

-- A REPLACE removes rows without firing delete triggers: note them before.
CREATE TRIGGER _sync_{n}_before_insert BEFORE INSERT ON {table}
WHEN (SELECT applying FROM _sync_guard) = 0
BEGIN
    INSERT INTO _sync_base_{n} ({base_columns})
    SELECT {row_columns} FROM {table} AS r
    WHERE ({insert_victims})
      AND NOT EXISTS (SELECT 1 FROM _sync_base_{n} AS b WHERE b.{base_key} = r.{key});
    INSERT INTO _sync_log (tbl, op, key)
    SELECT {n}, 0, r.{key} FROM {table} AS r WHERE {insert_victims};
END;

-- The same by the row number, where the statement gives one: SQLite shows -1
-- before it has chosen one itself.
CREATE TRIGGER _sync_{n}_before_rowid BEFORE INSERT ON {table}
WHEN NEW.{rowid} <> -1 AND (SELECT applying FROM _sync_guard) = 0
BEGIN
    INSERT INTO _sync_base_{n} ({base_columns})
    SELECT {row_columns} FROM {table} AS r
    WHERE r.{rowid} = NEW.{rowid}
      AND NOT EXISTS (SELECT 1 FROM _sync_base_{n} AS b WHERE b.{base_key} = r.{key});
    INSERT INTO _sync_log (tbl, op, key)
    SELECT {n}, 0, r.{key} FROM {table} AS r WHERE r.{rowid} = NEW.{rowid};
END;

CREATE TRIGGER _sync_{n}_after_insert AFTER INSERT ON {table}
WHEN (SELECT applying FROM _sync_guard) = 0
BEGIN
    INSERT INTO _sync_log (tbl, op, key) VALUES ({n}, 1, NEW.{key});
END;

CREATE TRIGGER _sync_{n}_before_update BEFORE UPDATE ON {table}
WHEN ({update_may_replace}) AND (SELECT applying FROM _sync_guard) = 0
BEGIN
    INSERT INTO _sync_base_{n} ({base_columns})
    SELECT {row_columns} FROM {table} AS r
    WHERE ({update_victims}) AND r.{key} IS NOT OLD.{key}
      AND NOT EXISTS (SELECT 1 FROM _sync_base_{n} AS b WHERE b.{base_key} = r.{key});
    INSERT INTO _sync_log (tbl, op, key)
    SELECT {n}, 0, r.{key} FROM {table} AS r
    WHERE ({update_victims}) AND r.{key} IS NOT OLD.{key};
END;

CREATE TRIGGER _sync_{n}_after_update AFTER UPDATE ON {table}
WHEN (SELECT applying FROM _sync_guard) = 0
BEGIN
    INSERT INTO _sync_base_{n} ({base_columns})
    SELECT {old_columns}
    WHERE NOT EXISTS (SELECT 1 FROM _sync_base_{n} AS b WHERE b.{base_key} = OLD.{key});
    INSERT INTO _sync_log (tbl, op, key) VALUES ({n}, 2, OLD.{key});
    INSERT INTO _sync_log (tbl, op, key)
    SELECT {n}, 1, NEW.{key} WHERE NEW.{key} IS NOT OLD.{key} COLLATE BINARY;
END;

CREATE TRIGGER _sync_{n}_after_delete AFTER DELETE ON {table}
WHEN (SELECT applying FROM _sync_guard) = 0
BEGIN
    INSERT INTO _sync_base_{n} ({base_columns})
    SELECT {old_columns}
    WHERE NOT EXISTS (SELECT 1 FROM _sync_base_{n} AS b WHERE b.{base_key} = OLD.{key});
    INSERT INTO _sync_log (tbl, op, key) VALUES ({n}, 3, OLD.{key});
END;
