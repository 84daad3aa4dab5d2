-- Removes entries that a fold has replaced. A change that its device may send again
-- keeps its record; the server itself (device 0) numbers each change anew.
-- $1 user, $2 fold that is read, $3 entries, $4 whether they are kept as history
WITH gone AS (
    DELETE FROM oversync.log l
    USING oversync.users u
    WHERE u.user_key = $1 AND u.fold = $2
      AND l.user_key = $1 AND l.server_id <= u.floor AND l.server_id = ANY ($3::bigint[])
    RETURNING l.*
), history AS (
    INSERT INTO oversync.history
        (user_key, server_id, change_id, version, ts, device_key, table_key, op, pk, fingerprint, payload)
    SELECT user_key, server_id, change_id, version, ts, device_key, table_key, op, pk, fingerprint, payload
    FROM gone
    WHERE $4
), there AS (
    -- A device that is not known is waited for from now on: its records too go with it.
    INSERT INTO oversync.readers (user_key, device_id, cursor)
    SELECT d.user_key, d.device_id, 0 FROM oversync.devices d
    WHERE d.user_key = $1 AND d.device_key IN (SELECT g.device_key FROM gone g WHERE g.device_key <> 0)
    ORDER BY d.user_key, d.device_id
    ON CONFLICT DO NOTHING
), kept AS (
    INSERT INTO oversync.records (user_key, device_key, change_id, version, fingerprint)
    SELECT $1, g.device_key, g.change_id, g.version, g.fingerprint
    FROM gone g
    LEFT JOIN oversync.devices d ON d.user_key = $1 AND d.device_key = g.device_key
    WHERE g.device_key <> 0 AND (d.settled_below IS NULL OR g.change_id >= d.settled_below)
    ON CONFLICT DO NOTHING
)
SELECT count(*) FROM gone
