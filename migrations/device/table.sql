-- What the triggers of one table write: what was done to which key, in the order it
-- happened, with the old values, as raw as they were. Only ever appended to, and
-- emptied by the client. Columns without a type, so that nothing is converted; no
-- constraint, because it is written under whatever conflict clause the application's
-- statement has. {n}: the table's number; {log_columns}: `key`, and the names of
-- the application's other columns behind a `_`: who finds other names here knows
-- that the images are of another shape of the table.
-- op: 0 perhaps (a row that a REPLACE may remove), 1 insert, 2 update, 3 delete;
-- without an old row: -1 perhaps, 4 something.
CREATE TABLE _sync_log_{n} (seq INTEGER PRIMARY KEY, op, {log_columns});
