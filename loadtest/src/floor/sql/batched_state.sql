-- The rows themselves, once more. $1 user, $2 keys, $3 payloads
INSERT INTO reference.state (user_id, schema_name, table_name, pk, payload)
SELECT $1, 'business', 'users', e.pk, e.payload::json
FROM unnest($2::uuid[], $3::text[]) AS e (pk, payload)
ON CONFLICT (user_id, schema_name, table_name, pk) DO UPDATE SET payload = excluded.payload
