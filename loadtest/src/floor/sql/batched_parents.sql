-- Which rows that are referred to exist. $1 user, $2 keys
SELECT pk FROM reference.state
WHERE user_id = $1 AND schema_name = 'business' AND table_name = 'users' AND pk = ANY ($2)
