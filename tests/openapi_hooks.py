"""What a JSON schema cannot say of this protocol, for tests/openapi-check."""

import schemathesis


def plain(value):
    """An integer is written without a point here; to a JSON schema 7.0 is one too."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [plain(part) for part in value]
    return value


TABLES = [("business", "users"), ("business", "posts"), ("tree", "nodes")]
KEYS = ["0f8fad5b-d9cb-469f-a165-70867728950" + digit for digit in "01234"]


def sensible(change):
    """Half of the changes name tables, operations and keys that there are. Text stays
    text, so that what is valid stays valid, and what is not stays what it is."""
    number = len(str(change))
    if not isinstance(change, dict) or number % 2:
        return
    schema, table = TABLES[number // 2 % len(TABLES)]
    for name, value in {
        "schema": schema,
        "table": table,
        "op": ["INSERT", "UPDATE", "DELETE"][number // 6 % 3],
        "pk": KEYS[number // 18 % len(KEYS)],
    }.items():
        if isinstance(change.setdefault(name, value), str):
            change[name] = value
    if isinstance(change.setdefault("server_version", 0), int):
        change["server_version"] = 0
    if change["op"] != "DELETE":
        change.setdefault("payload", {})


def agree(request):
    """Of four epochs, three are left out: any other than the server's is a 409."""
    if isinstance(request.get("epoch"), str) and len(request["epoch"]) % 4:
        del request["epoch"]


@schemathesis.hook
def map_body(context, body):
    body = plain(body)
    if isinstance(body, dict) and isinstance(body.get("changes"), list):
        agree(body)
        for change in body["changes"]:
            sensible(change)
    return body


@schemathesis.hook
def map_query(context, query):
    """A long poll is good for any wait; this check has no minute for each."""
    if query:
        agree(query)
    if query and isinstance(query.get("wait"), (int, float)) and 0 < query["wait"] <= 60:
        query["wait"] = 1
    return query
