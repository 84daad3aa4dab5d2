-- Whose a projected business row is, for business tables without an owner
-- column. A business row that is not in here was not made by synchronisation
-- and is not for taking.
CREATE TABLE oversync.owners (
    table_key integer NOT NULL,
    pk        uuid NOT NULL,
    user_key  bigint NOT NULL,
    PRIMARY KEY (table_key, pk)
);

-- Rows whose state could not be written into their business table.
CREATE TABLE oversync.failures (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_key          bigint NOT NULL,
    table_key         integer NOT NULL,
    pk                uuid NOT NULL,
    attempted_version bigint NOT NULL,
    op                smallint NOT NULL CHECK (op IN (1, 2, 3)),
    payload           text,
    error             text NOT NULL,
    first_seen        timestamptz NOT NULL DEFAULT now(),
    retry_count       integer NOT NULL DEFAULT 0,
    UNIQUE (user_key, table_key, pk, attempted_version)
);

-- A key in any spelling a client may use for a reference: what uuid itself
-- takes, urn:uuid:…, or base64 of 16 bytes. Anything else is an error.
CREATE FUNCTION oversync.to_uuid(spelling text) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE
        WHEN spelling = '' THEN NULL
        WHEN lower(left(spelling, 9)) = 'urn:uuid:' THEN substr(spelling, 10)::uuid
        WHEN length(spelling) BETWEEN 22 AND 24
            THEN encode(decode(rpad(rtrim(translate(spelling, '-_', '+/'), '='), 24, '='), 'base64'), 'hex')::uuid
        ELSE spelling::uuid
    END
$$;

-- A point in time as devices write it: epoch seconds as a number, or text; text
-- without a zone is UTC (the connection's time zone is).
CREATE FUNCTION oversync.to_time(value json) RETURNS timestamptz
LANGUAGE sql STABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE json_typeof(value)
        WHEN 'number' THEN to_timestamp((value #>> '{}')::double precision)
        WHEN 'null' THEN NULL
        ELSE (value #>> '{}')::timestamptz
    END
$$;
