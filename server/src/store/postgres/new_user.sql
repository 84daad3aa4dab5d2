-- A user that was never seen. After a restore its stream begins above what the lost
-- history may have used.
-- $1 the user
WITH made AS (
    INSERT INTO oversync.users (user_id, head)
    SELECT $1, m.first_head FROM oversync.meta m
    ON CONFLICT DO NOTHING
    RETURNING user_key, head
)
INSERT INTO oversync.jumps (user_key, after, through)
SELECT u.user_key, 0, u.head FROM made u WHERE u.head > 0
