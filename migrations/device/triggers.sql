-- The capture triggers of one table. They run in any program and any SQLite
-- version: no JSON, no functions, no conflict clauses (an `INSERT OR REPLACE`
-- of the application overrides those of its triggers), only plain inserts that
-- cannot conflict. Whatever is done to a row is one line at the end of the table's
-- log, with the old row where there is one: an index, or a look whether the row is
-- in the log already, costs the application more than the line itself.
-- {table}, {key}: quoted names; {log_columns}: the log's names of key and other
-- columns; {row_columns}: r."a", r."b", …; {old_columns}: OLD."a", …; {any_victim}:
-- whether there are rows that an insert may replace; {insert_victims},
-- {update_victims}: which rows r a REPLACE would remove; {of_unique}: the columns
-- whose update may replace rows; {update_may_replace}: whether it changes one.

-- A REPLACE removes rows without firing delete triggers: note them before. Nearly
-- always there is none, and the question costs less than the guard.
CREATE TRIGGER _sync_{n}_before_insert BEFORE INSERT ON {table}
WHEN ({any_victim}) AND (SELECT applying FROM _sync_guard) = 0
BEGIN
    INSERT INTO _sync_log_{n} (op, {log_columns})
    SELECT 0, {row_columns} FROM {table} AS r WHERE {insert_victims};
END;

CREATE TRIGGER _sync_{n}_after_insert AFTER INSERT ON {table}
WHEN (SELECT applying FROM _sync_guard) = 0
BEGIN
    INSERT INTO _sync_log_{n} (op, key) VALUES (1, NEW.{key});
END;

CREATE TRIGGER _sync_{n}_before_update BEFORE UPDATE{of_unique} ON {table}
WHEN ({update_may_replace}) AND (SELECT applying FROM _sync_guard) = 0
BEGIN
    INSERT INTO _sync_log_{n} (op, {log_columns})
    SELECT 0, {row_columns} FROM {table} AS r
    WHERE ({update_victims}) AND r.{key} IS NOT OLD.{key};
END;

-- Before, whatever its name says (which earlier versions have, too): triggers of the
-- application that write the same row come in an order that is not ours to choose, and
-- the first line must have the row as it was before all of them.
CREATE TRIGGER _sync_{n}_after_update BEFORE UPDATE ON {table}
WHEN (SELECT applying FROM _sync_guard) = 0
BEGIN
    INSERT INTO _sync_log_{n} (op, {log_columns}) VALUES (2, {old_columns});
END;

-- A new key is a new row; the old one is noted by the trigger above.
CREATE TRIGGER _sync_{n}_after_key AFTER UPDATE OF {key} ON {table}
WHEN NEW.{key} IS NOT OLD.{key} COLLATE BINARY AND (SELECT applying FROM _sync_guard) = 0
BEGIN
    INSERT INTO _sync_log_{n} (op, key) VALUES (1, NEW.{key});
END;

CREATE TRIGGER _sync_{n}_after_delete AFTER DELETE ON {table}
WHEN (SELECT applying FROM _sync_guard) = 0
BEGIN
    INSERT INTO _sync_log_{n} (op, {log_columns}) VALUES (3, {old_columns});
END;
