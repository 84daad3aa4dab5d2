-- What a restore leaves behind. Places of a user's stream that were never handed out:
-- above `after`, up to `through`. A restored server goes on far above everything that
-- the lost history can have used.
CREATE TABLE _oversync_jumps (
    user_key INTEGER NOT NULL,
    after    INTEGER NOT NULL CHECK (after >= 0),
    through  INTEGER NOT NULL CHECK (through > after),
    PRIMARY KEY (user_key, after)
) STRICT, WITHOUT ROWID;

-- Where the stream of a user begins that is not known yet: the lost history may have
-- known it.
ALTER TABLE _oversync_meta ADD COLUMN first_head INTEGER NOT NULL DEFAULT 0 CHECK (first_head >= 0);
