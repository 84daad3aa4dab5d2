-- Takes over what an earlier version noted of one table: it had one log for all
-- tables, and an indexed table of base images beside it. One line a key: the image is
-- that of the first touch, the oldest one of the key. Images of another shape than
-- the log's are left out: then there is none to join.
INSERT INTO _sync_log_{n} (op, {log_columns})
SELECT
    CASE
        WHEN l.op = 1 THEN 1
        WHEN b.rowid IS NULL THEN CASE WHEN t.op > 0 THEN 4 ELSE -1 END
        ELSE CASE WHEN t.op > 0 THEN 2 ELSE 0 END
    END,
    l.key{image_columns}
FROM (
    SELECT min(seq) AS seq, max(op) AS op FROM _sync_log WHERE tbl = {n} GROUP BY key
) AS t
JOIN _sync_log AS l ON l.seq = t.seq
LEFT JOIN {images} AS b
    ON b.rowid = (SELECT min(f.rowid) FROM {images} AS f WHERE f.{key} = l.key)
ORDER BY t.seq
