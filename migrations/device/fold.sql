-- The rows of one table that were touched since its log ({log}) was last read: one
-- line a key, in the order of the first touch, which has the image that counts. op 0
-- or less alone: only perhaps removed by a REPLACE. What began with an insert (1) was
-- not there before.
SELECT t.seq, t.op, l.op, l.key
FROM (SELECT min(seq) AS seq, max(op) AS op FROM {log} GROUP BY key) AS t
JOIN {log} AS l ON l.seq = t.seq
ORDER BY t.seq
