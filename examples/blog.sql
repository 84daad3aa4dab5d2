-- The README's example on a device: people and their posts.
CREATE TABLE IF NOT EXISTS users (
    id    TEXT PRIMARY KEY NOT NULL,
    name  TEXT NOT NULL,
    email TEXT
);

CREATE TABLE IF NOT EXISTS posts (
    id        TEXT PRIMARY KEY NOT NULL,
    title     TEXT NOT NULL,
    content   TEXT,
    author_id TEXT REFERENCES users (id) ON DELETE CASCADE
);

-- Without it, deleting a person looks through all posts.
CREATE INDEX IF NOT EXISTS posts_author ON posts (author_id);
