#!/usr/bin/env bash
# Passes all tests, on the embedded store and on PostgreSQL.
#
#   ./test.sh                 everything
#   ./test.sh order::         tests whose names contain "order::"
#
# Needs Rust and, for a private PostgreSQL, Debian's package: installed here
# when it is missing and this user may (root, or sudo without a password).
set -euo pipefail
cd "$(dirname "$0")"

have_postgres() { ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null 2>&1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }

if ! have_postgres || ! command -v cc >/dev/null; then
  echo "test.sh: installing PostgreSQL and a C compiler" >&2
  as_root apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive as_root apt-get install -qy --no-install-recommends postgresql gcc libc6-dev >/dev/null \
    || { echo "test.sh: please install: postgresql gcc libc6-dev" >&2; exit 1; }
fi

# The tests start the real programs.
cargo build --workspace --bins --locked
tests/with-postgres cargo test --workspace --locked -- "$@"
