-- The rows that were touched since the log was last read: one line a key, in the
-- order of the first touch. op 0 alone: only perhaps removed by a REPLACE.
SELECT tbl, key, min(seq), max(op)
FROM _sync_log
GROUP BY tbl, key
ORDER BY min(seq)
