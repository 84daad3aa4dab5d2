-- How far users' streams reach, and the highest change id of one device of each,
-- from one snapshot. One row for each that was asked for, by its place; without any,
-- one row with the epoch.
-- $1 users, $2 a device of each, or null
SELECT m.epoch, w.place, u.head, u.floor, d.highest_change_id
FROM oversync.meta m
LEFT JOIN unnest($1::text[], $2::text[]) WITH ORDINALITY AS w (user_id, device_id, place) ON true
LEFT JOIN oversync.users u ON u.user_id = w.user_id
LEFT JOIN oversync.devices d ON d.user_key = u.user_key AND d.device_id = w.device_id
