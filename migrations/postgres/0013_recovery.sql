-- What a restore leaves behind. Places of a user's stream that were never handed out:
-- above `after`, up to `through`. A restored server goes on far above everything that
-- the lost history can have used.
CREATE TABLE oversync.jumps (
    user_key bigint NOT NULL,
    after    bigint NOT NULL CHECK (after >= 0),
    through  bigint NOT NULL CHECK (through > after),
    PRIMARY KEY (user_key, after)
);

-- Where the stream of a user begins that is not known yet: the lost history may have
-- known it.
ALTER TABLE oversync.meta ADD COLUMN first_head bigint NOT NULL DEFAULT 0 CHECK (first_head >= 0);
