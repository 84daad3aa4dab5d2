-- Failures are numbered for each user: a number from one sequence told a user
-- how many failures others have. Moves in the transaction that records, and
-- never goes back: a number is not used again.
ALTER TABLE _oversync_users ADD COLUMN last_failure INTEGER NOT NULL DEFAULT 0 CHECK (last_failure >= 0);

-- Recorded failures keep their numbers, and so their order. Whoever may have had
-- some goes on above all that were ever given: also those that are gone may
-- still be retried by somebody.
UPDATE _oversync_users
SET last_failure = (SELECT seq FROM sqlite_sequence WHERE name = '_oversync_failures')
WHERE head > 0 AND EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = '_oversync_failures');

CREATE TABLE _oversync_failures_by_user (
    user_key          INTEGER NOT NULL,
    id                INTEGER NOT NULL,
    table_key         INTEGER NOT NULL,
    pk                BLOB NOT NULL CHECK (length(pk) = 16),
    attempted_version INTEGER NOT NULL,
    op                INTEGER NOT NULL CHECK (op IN (1, 2, 3)),
    payload           TEXT,
    error             TEXT NOT NULL,
    first_seen        INTEGER NOT NULL,
    retry_count       INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (user_key, id),
    UNIQUE (user_key, table_key, pk, attempted_version)
) STRICT;
INSERT INTO _oversync_failures_by_user
    (user_key, id, table_key, pk, attempted_version, op, payload, error, first_seen, retry_count)
SELECT user_key, id, table_key, pk, attempted_version, op, payload, error, first_seen, retry_count
FROM _oversync_failures;
DROP TABLE _oversync_failures;
ALTER TABLE _oversync_failures_by_user RENAME TO _oversync_failures;
