-- The business tables of the conformance suite's section 5, for a server on
-- PostgreSQL. A taken label and an empty title make a projection fail.
CREATE SCHEMA shelf;

CREATE TABLE shelf.books (
    id    uuid PRIMARY KEY,
    title text NOT NULL CHECK (title <> ''),
    label text UNIQUE,
    pages bigint
);

CREATE TABLE shelf.chapters (
    id      uuid PRIMARY KEY,
    book_id uuid REFERENCES shelf.books (id),
    title   text NOT NULL
);

-- A book called 'kept' cannot be deleted.
CREATE FUNCTION shelf.keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'kept';
END
$$;

CREATE TRIGGER keep BEFORE DELETE ON shelf.books
    FOR EACH ROW WHEN (old.title = 'kept') EXECUTE FUNCTION shelf.keep();
