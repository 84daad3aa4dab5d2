-- One row. $1 user, $2 key, $3 payload
INSERT INTO reference.state (user_id, schema_name, table_name, pk, payload)
VALUES ($1, 'business', 'users', $2, $3::json)
ON CONFLICT (user_id, schema_name, table_name, pk) DO UPDATE SET payload = excluded.payload
