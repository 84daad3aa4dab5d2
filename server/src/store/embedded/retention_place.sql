-- Lets the next fold be read, unless a device that counts has come to need what it
-- replaces.
-- ?1 user, ?2 fold that is read, ?3 floor, ?4 silent since, ?5 since when a device
-- counts that is in the middle of a fold, ?6 now
UPDATE _oversync_users
SET floor = ?3, fold = fold + 1, folded_at = ?6
WHERE user_key = ?1 AND fold = ?2 AND floor <= ?3 AND head >= ?3
  AND NOT EXISTS (
      SELECT 1 FROM _oversync_readers r
      WHERE r.user_key = ?1 AND r.read_at > ?4
        AND (r.cursor IS NULL
             OR r.cursor > 0 AND max(r.cursor, coalesce(r.through, 0)) >= _oversync_users.floor
                AND max(r.cursor, iif(r.wants_own, 0, coalesce(r.through, 0))) < ?3
             OR r.cursor < _oversync_users.floor AND r.fold = _oversync_users.fold AND r.read_at > ?5))
