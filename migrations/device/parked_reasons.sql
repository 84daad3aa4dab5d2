-- Entries that cannot be written into a table now, by reason, each with one of
-- them as an example.
SELECT reason, count(*), wire_table || '/' || pk, max(detail)
FROM _sync_parked
GROUP BY reason
ORDER BY count(*) DESC
