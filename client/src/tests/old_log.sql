-- What stood in a file of the version before the logs, for the tables t and u with
-- the columns id and v, as that version wrote it: in the place of today's logs.
DROP VIEW _sync_touched;
DROP TRIGGER _sync_1_before_insert;
DROP TRIGGER _sync_1_after_insert;
DROP TRIGGER _sync_1_before_update;
DROP TRIGGER _sync_1_after_update;
DROP TRIGGER _sync_1_after_key;
DROP TRIGGER _sync_1_after_delete;
DROP TABLE _sync_log_1;
DROP TRIGGER _sync_2_before_insert;
DROP TRIGGER _sync_2_after_insert;
DROP TRIGGER _sync_2_before_update;
DROP TRIGGER _sync_2_after_update;
DROP TRIGGER _sync_2_after_key;
DROP TRIGGER _sync_2_after_delete;
DROP TABLE _sync_log_2;
CREATE TABLE _sync_log (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    tbl,
    op,
    key
);
CREATE TABLE _sync_base_1 ("id", "v");
CREATE INDEX _sync_base_1_key ON _sync_base_1 ("id");
CREATE TRIGGER _sync_1_before_insert BEFORE INSERT ON "t"
WHEN (SELECT applying FROM _sync_guard) = 0
BEGIN
    INSERT INTO _sync_base_1 ("id", "v")
    SELECT r."id", r."v" FROM "t" AS r
    WHERE (r."id" = NEW."id")
      AND NOT EXISTS (SELECT 1 FROM _sync_base_1 AS b WHERE b."id" = r."id");
    INSERT INTO _sync_log (tbl, op, key)
    SELECT 1, 0, r."id" FROM "t" AS r WHERE r."id" = NEW."id";
END;
CREATE TRIGGER _sync_1_before_rowid BEFORE INSERT ON "t"
WHEN NEW.rowid <> -1 AND (SELECT applying FROM _sync_guard) = 0
BEGIN
    INSERT INTO _sync_base_1 ("id", "v")
    SELECT r."id", r."v" FROM "t" AS r
    WHERE r.rowid = NEW.rowid
      AND NOT EXISTS (SELECT 1 FROM _sync_base_1 AS b WHERE b."id" = r."id");
    INSERT INTO _sync_log (tbl, op, key)
    SELECT 1, 0, r."id" FROM "t" AS r WHERE r.rowid = NEW.rowid;
END;
CREATE TRIGGER _sync_1_after_insert AFTER INSERT ON "t"
WHEN (SELECT applying FROM _sync_guard) = 0
BEGIN
    INSERT INTO _sync_log (tbl, op, key) VALUES (1, 1, NEW."id");
END;
CREATE TRIGGER _sync_1_before_update BEFORE UPDATE ON "t"
WHEN (NEW."id" IS NOT OLD."id" COLLATE BINARY OR NEW.rowid <> OLD.rowid) AND (SELECT applying FROM _sync_guard) = 0
BEGIN
    INSERT INTO _sync_base_1 ("id", "v")
    SELECT r."id", r."v" FROM "t" AS r
    WHERE (r."id" = NEW."id" OR r.rowid = NEW.rowid) AND r."id" IS NOT OLD."id"
      AND NOT EXISTS (SELECT 1 FROM _sync_base_1 AS b WHERE b."id" = r."id");
    INSERT INTO _sync_log (tbl, op, key)
    SELECT 1, 0, r."id" FROM "t" AS r
    WHERE (r."id" = NEW."id" OR r.rowid = NEW.rowid) AND r."id" IS NOT OLD."id";
END;
CREATE TRIGGER _sync_1_after_update AFTER UPDATE ON "t"
WHEN (SELECT applying FROM _sync_guard) = 0
BEGIN
    INSERT INTO _sync_base_1 ("id", "v")
    SELECT OLD."id", OLD."v"
    WHERE NOT EXISTS (SELECT 1 FROM _sync_base_1 AS b WHERE b."id" = OLD."id");
    INSERT INTO _sync_log (tbl, op, key) VALUES (1, 2, OLD."id");
    INSERT INTO _sync_log (tbl, op, key)
    SELECT 1, 1, NEW."id" WHERE NEW."id" IS NOT OLD."id" COLLATE BINARY;
END;
CREATE TRIGGER _sync_1_after_delete AFTER DELETE ON "t"
WHEN (SELECT applying FROM _sync_guard) = 0
BEGIN
    INSERT INTO _sync_base_1 ("id", "v")
    SELECT OLD."id", OLD."v"
    WHERE NOT EXISTS (SELECT 1 FROM _sync_base_1 AS b WHERE b."id" = OLD."id");
    INSERT INTO _sync_log (tbl, op, key) VALUES (1, 3, OLD."id");
END;
CREATE TABLE _sync_base_2 ("id", "v");
CREATE INDEX _sync_base_2_key ON _sync_base_2 ("id");
CREATE TRIGGER _sync_2_before_insert BEFORE INSERT ON "u"
WHEN (SELECT applying FROM _sync_guard) = 0
BEGIN
    INSERT INTO _sync_base_2 ("id", "v")
    SELECT r."id", r."v" FROM "u" AS r
    WHERE (r."id" = NEW."id")
      AND NOT EXISTS (SELECT 1 FROM _sync_base_2 AS b WHERE b."id" = r."id");
    INSERT INTO _sync_log (tbl, op, key)
    SELECT 2, 0, r."id" FROM "u" AS r WHERE r."id" = NEW."id";
END;
CREATE TRIGGER _sync_2_before_rowid BEFORE INSERT ON "u"
WHEN NEW.rowid <> -1 AND (SELECT applying FROM _sync_guard) = 0
BEGIN
    INSERT INTO _sync_base_2 ("id", "v")
    SELECT r."id", r."v" FROM "u" AS r
    WHERE r.rowid = NEW.rowid
      AND NOT EXISTS (SELECT 1 FROM _sync_base_2 AS b WHERE b."id" = r."id");
    INSERT INTO _sync_log (tbl, op, key)
    SELECT 2, 0, r."id" FROM "u" AS r WHERE r.rowid = NEW.rowid;
END;
CREATE TRIGGER _sync_2_after_insert AFTER INSERT ON "u"
WHEN (SELECT applying FROM _sync_guard) = 0
BEGIN
    INSERT INTO _sync_log (tbl, op, key) VALUES (2, 1, NEW."id");
END;
CREATE TRIGGER _sync_2_before_update BEFORE UPDATE ON "u"
WHEN (NEW."id" IS NOT OLD."id" COLLATE BINARY OR NEW.rowid <> OLD.rowid) AND (SELECT applying FROM _sync_guard) = 0
BEGIN
    INSERT INTO _sync_base_2 ("id", "v")
    SELECT r."id", r."v" FROM "u" AS r
    WHERE (r."id" = NEW."id" OR r.rowid = NEW.rowid) AND r."id" IS NOT OLD."id"
      AND NOT EXISTS (SELECT 1 FROM _sync_base_2 AS b WHERE b."id" = r."id");
    INSERT INTO _sync_log (tbl, op, key)
    SELECT 2, 0, r."id" FROM "u" AS r
    WHERE (r."id" = NEW."id" OR r.rowid = NEW.rowid) AND r."id" IS NOT OLD."id";
END;
CREATE TRIGGER _sync_2_after_update AFTER UPDATE ON "u"
WHEN (SELECT applying FROM _sync_guard) = 0
BEGIN
    INSERT INTO _sync_base_2 ("id", "v")
    SELECT OLD."id", OLD."v"
    WHERE NOT EXISTS (SELECT 1 FROM _sync_base_2 AS b WHERE b."id" = OLD."id");
    INSERT INTO _sync_log (tbl, op, key) VALUES (2, 2, OLD."id");
    INSERT INTO _sync_log (tbl, op, key)
    SELECT 2, 1, NEW."id" WHERE NEW."id" IS NOT OLD."id" COLLATE BINARY;
END;
CREATE TRIGGER _sync_2_after_delete AFTER DELETE ON "u"
WHEN (SELECT applying FROM _sync_guard) = 0
BEGIN
    INSERT INTO _sync_base_2 ("id", "v")
    SELECT OLD."id", OLD."v"
    WHERE NOT EXISTS (SELECT 1 FROM _sync_base_2 AS b WHERE b."id" = OLD."id");
    INSERT INTO _sync_log (tbl, op, key) VALUES (2, 3, OLD."id");
END;
