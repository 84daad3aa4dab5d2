-- Which of these changes are there already. $1 user, $2 device, $3 change ids
SELECT source_change_id, server_version FROM reference.log
WHERE user_id = $1 AND source_id = $2 AND source_change_id = ANY ($3)
