-- A page as it is stored. $1 user, $2 after, $3 limit
SELECT server_id, pk, version, change_id, ts::text AS ts, payload FROM floor.log
WHERE user_key = $1 AND server_id > $2 ORDER BY server_id LIMIT $3
