-- New versions. $1 user, $2 keys
INSERT INTO reference.meta (user_id, schema_name, table_name, pk, server_version)
SELECT $1, 'business', 'users', e.pk, 1 FROM unnest($2::uuid[]) AS e (pk)
ON CONFLICT (user_id, schema_name, table_name, pk)
DO UPDATE SET server_version = meta.server_version + 1, updated_at = now()
RETURNING pk, server_version
