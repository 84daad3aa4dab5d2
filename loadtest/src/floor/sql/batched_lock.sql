-- The rows as they are, locked. $1 user, $2 keys
SELECT pk, server_version, deleted FROM reference.meta
WHERE user_id = $1 AND schema_name = 'business' AND table_name = 'users' AND pk = ANY ($2)
FOR UPDATE
