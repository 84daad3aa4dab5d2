-- Failures are numbered for each user: a number from one sequence told a user
-- how many failures others have. Moves in the transaction that records, while
-- the head row is locked, and never goes back: a number is not used again.
ALTER TABLE oversync.users ADD COLUMN last_failure bigint NOT NULL DEFAULT 0 CHECK (last_failure >= 0);

-- Recorded failures keep their numbers, and so their order. Whoever may have had
-- some goes on above all that were ever given: also those that are gone may
-- still be retried by somebody.
UPDATE oversync.users u
SET last_failure = given.highest
FROM (SELECT pg_sequence_last_value(pg_get_serial_sequence('oversync.failures', 'id')::regclass) AS highest) AS given
WHERE given.highest IS NOT NULL AND u.head > 0;

ALTER TABLE oversync.failures
    ALTER COLUMN id DROP IDENTITY,
    DROP CONSTRAINT failures_pkey,
    ADD PRIMARY KEY (user_key, id);
