-- One row's version. $1 user, $2 key
INSERT INTO reference.meta (user_id, schema_name, table_name, pk, server_version)
VALUES ($1, 'business', 'users', $2, 1)
ON CONFLICT (user_id, schema_name, table_name, pk)
DO UPDATE SET server_version = meta.server_version + 1, updated_at = now()
