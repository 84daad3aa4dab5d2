-- The log. $1 user, $2 device, $3 change ids, $4 keys, $5 payloads
INSERT INTO reference.log (user_id, schema_name, table_name, op, pk, payload, source_id, source_change_id)
SELECT $1, 'business', 'users', 'INSERT', e.pk, e.payload::json, $2, e.change_id
FROM unnest($3::bigint[], $4::uuid[], $5::text[]) AS e (change_id, pk, payload)
ON CONFLICT (user_id, source_id, source_change_id) DO NOTHING
RETURNING server_id, source_change_id
