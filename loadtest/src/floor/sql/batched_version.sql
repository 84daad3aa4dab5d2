-- The versions, into the log. $1 user, $2 device, $3 change ids, $4 versions
UPDATE reference.log l SET server_version = e.version
FROM unnest($3::bigint[], $4::bigint[]) AS e (change_id, version)
WHERE l.user_id = $1 AND l.source_id = $2 AND l.source_change_id = e.change_id
