-- One version into the log. $1 user, $2 device, $3 change id
UPDATE reference.log SET server_version = 1
WHERE user_id = $1 AND source_id = $2 AND source_change_id = $3
