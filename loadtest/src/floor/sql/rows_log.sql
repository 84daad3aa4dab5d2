-- One change into the log. $1 user, $2 device, $3 change id, $4 key, $5 payload
INSERT INTO reference.log (user_id, schema_name, table_name, op, pk, payload, source_id, source_change_id)
VALUES ($1, 'business', 'users', 'INSERT', $4, $5::json, $2, $3)
ON CONFLICT (user_id, source_id, source_change_id) DO NOTHING
