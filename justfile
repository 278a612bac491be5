# The commands of the project. `just` alone lists them.

_default:
    @just --list --unsorted

# Storms against the production services; arguments go to `chaos` (see README.md).
chaos *ARGS:
    cargo chaos {{ ARGS }}

# Every test; those that need containers are skipped, loudly, where there is no engine.
test *ARGS:
    cargo test --workspace {{ ARGS }}

# Formatting and lints, as .ci/run checks them.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# Benches against the saved baseline; the first run makes it, `just baseline` makes a new one.
bench *ARGS:
    cargo bench --profile chaos --package stormglass-benches -- --baseline-lenient main {{ ARGS }}

# Saves what the benches measure now as the baseline.
baseline *ARGS:
    cargo bench --profile chaos --package stormglass-benches -- --save-baseline main {{ ARGS }}

# Workers, relay and gateway on real Kafka and PostgreSQL in containers, beside raw rdkafka and sqlx loops: 10 to 15 min.
bench-real *ARGS:
    cargo run --release --package stormglass-benches --bin bench-real -- {{ ARGS }}

# Plants each bug of chaos/bugs and reports how many seeds find it.
power *ARGS:
    cargo chaos power {{ ARGS }}

compose := "$(docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)"

# The whole backend in containers, see compose.yaml.
up *ARGS:
    cargo build --release --package stormglass-server
    docker build --tag stormglass .
    {{ compose }} up --detach {{ ARGS }}

# Ends it, and removes what it kept.
down:
    {{ compose }} down --volumes

# Describes the SQL of system/server anew, against a migrated database: after a change of a statement or a migration.
sqlx-prepare URL:
    rm -rf system/server/.sqlx && mkdir system/server/.sqlx && touch system/server/src/lib.rs
    DATABASE_URL={{ URL }} SQLX_OFFLINE=false SQLX_OFFLINE_DIR={{ justfile_directory() }}/system/server/.sqlx cargo check --package stormglass-server

# The documentation of every crate.
doc *ARGS:
    cargo doc --workspace --no-deps {{ ARGS }}
