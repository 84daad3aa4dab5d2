-- Forgets devices that have been silent, and what is left of their changes. One that
-- is written at this moment is not silent.
-- $1 seconds of silence, $2 limit
WITH old AS (
    SELECT r.user_key, r.device_id FROM oversync.readers r
    WHERE r.seen_at <= now() - make_interval(secs => $1)
    LIMIT $2
    FOR UPDATE SKIP LOCKED
), silent AS (
    DELETE FROM oversync.readers r USING old o
    WHERE r.user_key = o.user_key AND r.device_id = o.device_id
    RETURNING r.user_key, r.device_id
), gone AS (
    DELETE FROM oversync.records x USING silent s, oversync.devices d
    WHERE d.user_key = s.user_key AND d.device_id = s.device_id
      AND x.user_key = d.user_key AND x.device_key = d.device_key
)
SELECT count(*) FROM silent
