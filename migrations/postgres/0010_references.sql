-- Whether a payload's value can be turned into a column's type. `conversion` is
-- an expression of the server's own over `w.payload`, never a client's text.
-- What the type refuses is the data's fault and false; everything else (no such
-- type, a full disk) is still an error.
CREATE FUNCTION oversync.converts(conversion text, payload json) RETURNS boolean
LANGUAGE plpgsql STABLE STRICT AS $$
DECLARE
    is_null boolean;
BEGIN
    EXECUTE format('SELECT (%s) IS NULL FROM (SELECT $1 AS payload) AS w', conversion)
        INTO is_null USING payload;
    RETURN true;
EXCEPTION
    WHEN data_exception OR integrity_constraint_violation OR raise_exception OR feature_not_supported
        THEN RETURN false;
END
$$;
