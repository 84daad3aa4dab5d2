-- What was added to a user's rows above a place, at most: every entry may be of a row
-- of its own.
-- $1 user, $2 place
SELECT u.head, since.rows, since.bytes
FROM oversync.users u
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE l.op <> 3) AS rows, coalesce(sum(octet_length(l.payload)), 0)::bigint AS bytes
    FROM oversync.log l
    WHERE l.user_key = u.user_key AND l.server_id > $2
) since
WHERE u.user_key = $1
