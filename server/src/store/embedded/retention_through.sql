-- What devices need not read of what will be folded, as long as it can be seen: above
-- their cursors nothing but their own changes.
-- ?1 user, ?2 floor
UPDATE _oversync_readers
SET through = ?2
WHERE user_key = ?1 AND cursor > 0 AND max(cursor, coalesce(through, 0)) < ?2
  AND max(cursor, coalesce(through, 0)) >= (SELECT u.floor FROM _oversync_users u WHERE u.user_key = ?1)
  AND NOT EXISTS (
      SELECT 1 FROM _oversync_log l
      WHERE l.user_key = ?1 AND l.server_id > max(cursor, coalesce(through, 0)) AND l.server_id <= ?2
        AND l.device_key IS NOT (
            SELECT d.device_key FROM _oversync_devices d
            WHERE d.user_key = ?1 AND d.device_id = _oversync_readers.device_id))
