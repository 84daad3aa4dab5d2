-- A log to read from. $1 user, $2 rows
INSERT INTO floor.log (user_key, server_id, change_id, version, ts, device_key, table_key, op, pk, fingerprint, payload)
SELECT $1, n, n, 1, now(), 1, 1, 1, k, '\x00112233445566778899aabbccddeeff',
    format('{"id":"%s","name":"load %s","email":"%s"}', k, n, repeat('x', 120))
FROM (SELECT n, gen_random_uuid() AS k FROM generate_series(1, $2::bigint) AS n) AS made
