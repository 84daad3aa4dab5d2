-- What a user has: live rows, and the bytes of their payloads, whose sizes are known
-- without reading them.
-- $1 user
SELECT u.head, has.rows, has.bytes
FROM oversync.users u
CROSS JOIN LATERAL (
    SELECT count(*) AS rows, coalesce(sum(octet_length(l.payload)), 0)::bigint AS bytes
    FROM oversync.rows r
    LEFT JOIN oversync.log l ON l.user_key = r.user_key AND l.server_id = r.server_id
    WHERE r.user_key = u.user_key AND NOT r.deleted
) has
WHERE u.user_key = $1
