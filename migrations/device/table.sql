-- The base images of one table: old column values, as raw as they were, of rows
-- whose first unsent edit is in _sync_log. Columns without a type, so that
-- nothing is converted; no constraint, for the same reason as in _sync_log.
-- The columns have the names of the application's: who finds other names here
-- knows that the images are of another table. {n}: the table's number.
CREATE TABLE _sync_base_{n} ({base_columns});
CREATE INDEX _sync_base_{n}_key ON _sync_base_{n} ({base_key});
