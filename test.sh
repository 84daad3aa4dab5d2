#!/usr/bin/env bash
# Passes all tests, on the embedded store and on PostgreSQL.
#
#   ./test.sh                 everything
#   ./test.sh order::         tests whose names contain "order::"
#
# Needs Rust and Debian's packages of PostgreSQL (a private one is started), NATS and
# nginx (so are theirs), Python (for the HTTP-only client of the documentation), curl (for
# the book's commands) and Chromium (for pages): installed here when they are missing and
# this user may (root, or sudo without a password).
set -euo pipefail
cd "$(dirname "$0")"

have_postgres() { ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null 2>&1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }

packages=()
[ -x /bin/kill ] || packages+=(procps)
have_postgres || packages+=(postgresql)
command -v cc >/dev/null || packages+=(gcc libc6-dev)
[ -x /usr/sbin/nats-server ] || command -v nats-server >/dev/null || packages+=(nats-server)
[ -x /usr/sbin/nginx ] || command -v nginx >/dev/null || packages+=(nginx-light)
command -v python3 >/dev/null || packages+=(python3)
command -v curl >/dev/null || packages+=(curl)
command -v chromedriver >/dev/null && command -v chromium >/dev/null || packages+=(chromium chromium-driver)
if [ ${#packages[@]} -gt 0 ]; then
  echo "test.sh: installing ${packages[*]}" >&2
  as_root apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive as_root apt-get install -qy --no-install-recommends "${packages[@]}" >/dev/null \
    || { echo "test.sh: please install: ${packages[*]}" >&2; exit 1; }
fi

# The tests start the real programs.
cargo build --workspace --bins --locked
tests/with-postgres cargo test --workspace --locked -- "$@"
