-- Business tables as an application has them: what is synchronised is projected
-- into them.
CREATE SCHEMA IF NOT EXISTS business;

CREATE TABLE IF NOT EXISTS business.users (
    id       uuid PRIMARY KEY,
    name     text NOT NULL,
    email    text
);

CREATE TABLE IF NOT EXISTS business.posts (
    id        uuid PRIMARY KEY,
    title     text NOT NULL,
    content   text,
    author_id uuid REFERENCES business.users (id) DEFERRABLE INITIALLY DEFERRED
);
