-- The rows that were touched since the log was last read: one line a key, in the
-- order of the first touch. op 0 alone: only perhaps removed by a REPLACE. What
-- began with an insert (1) was not there before: an image of it is none of what
-- the server has.
SELECT t.tbl, t.key, t.seq, t.op, l.op
FROM (SELECT tbl, key, min(seq) AS seq, max(op) AS op FROM _sync_log GROUP BY tbl, key) AS t
JOIN _sync_log AS l ON l.seq = t.seq
ORDER BY t.seq
