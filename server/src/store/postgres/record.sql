-- Records failures in this order, each under its user's next number; one of the
-- same row and version keeps its number. Users whose head rows are not locked
-- yet (rows that another's delete has reached) are waited for: a deadlock takes
-- the transaction back, and it is decided again.
-- $1–$7 user, table, key, version, operation, payload, text
WITH failed AS MATERIALIZED (
    SELECT * FROM unnest($1::bigint[], $2::integer[], $3::uuid[], $4::bigint[], $5::smallint[], $6::text[], $7::text[])
        WITH ORDINALITY AS w (user_key, table_key, pk, version, op, payload, error, place)
), known AS (
    UPDATE oversync.failures f
    SET error = w.error
    FROM failed w
    WHERE f.user_key = w.user_key AND f.table_key = w.table_key AND f.pk = w.pk AND f.attempted_version = w.version
), fresh AS MATERIALIZED (
    SELECT w.*, row_number() OVER (PARTITION BY w.user_key ORDER BY w.place) AS nth
    FROM failed w
    WHERE NOT EXISTS (
        SELECT FROM oversync.failures f
        WHERE f.user_key = w.user_key AND f.table_key = w.table_key AND f.pk = w.pk AND f.attempted_version = w.version)
), counted AS (
    UPDATE oversync.users u
    SET last_failure = u.last_failure + n.more
    FROM (SELECT user_key, count(*) AS more FROM fresh GROUP BY user_key) AS n
    WHERE u.user_key = n.user_key
    RETURNING u.user_key, u.last_failure - n.more AS before
)
INSERT INTO oversync.failures (user_key, id, table_key, pk, attempted_version, op, payload, error)
SELECT w.user_key, c.before + w.nth, w.table_key, w.pk, w.version, w.op, w.payload, w.error
FROM fresh w
JOIN counted c ON c.user_key = w.user_key
ON CONFLICT (user_key, table_key, pk, attempted_version) DO UPDATE SET error = excluded.error
