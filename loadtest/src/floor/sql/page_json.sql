-- A page built by the database, as the reference style does. $1 user, $2 after, $3 limit
SELECT coalesce(json_agg(json_build_object(
    'server_id', l.server_id, 'schema', 'business', 'table', 'users', 'op', 'INSERT', 'pk', l.pk,
    'payload', l.payload::json, 'server_version', l.version, 'deleted', false,
    'source_id', 'device', 'source_change_id', l.change_id, 'ts', l.ts) ORDER BY l.server_id), '[]')::text
FROM (SELECT * FROM floor.log WHERE user_key = $1 AND server_id > $2 ORDER BY server_id LIMIT $3) l
