-- What the runtime keeps beside a service's effects: where it stands, what it has seen, what waits, what to publish.
--
-- Everything here commits in one transaction with the effects, at READ COMMITTED. The order in which transactions wait
-- is positions, inbox, pending, domain rows, writes; each sorted by its primary key. Text keys are COLLATE "C", so that
-- the server sorts them as the programs do, whatever locale the cluster was made with.
--
-- Sessions are expected to set jit, enable_seqscan, enable_hashjoin, enable_mergejoin and enable_sort to off and
-- plan_cache_mode to force_generic_plan: a statement prepared while its table is empty would keep a plan that scans it
-- for ever.

-- Where a consumer stands. The row moves in the transaction of the batch; Kafka's committed offset only reports lag.
CREATE TABLE positions (
    consumer  text   COLLATE "C" NOT NULL,
    topic     text   COLLATE "C" NOT NULL,
    partition int    NOT NULL,
    next      bigint NOT NULL,
    PRIMARY KEY (consumer, topic, partition),
    -- A partition number from a broken client would make a position that nobody ever reads.
    CONSTRAINT positions_partition_not_negative CHECK (partition >= 0),
    -- Offsets begin at 0; -1 and below are Kafka's words for "beginning" and "end", never a place to start from.
    CONSTRAINT positions_next_not_negative CHECK (next >= 0)
)
-- Updated once per batch: room for HOT updates, and a vacuum before the few rows have grown to many pages.
WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- What a consumer has accounted for: applied, pending or dead. The primary key is what makes an effect happen once:
-- (consumer, event), not the offset (a copy has another one), not the event alone (a second consumer would starve).
CREATE TABLE inbox (
    consumer  text        COLLATE "C" NOT NULL,
    event_id  uuid        NOT NULL,
    topic     text        COLLATE "C" NOT NULL,
    partition int         NOT NULL,
    "offset"  bigint      NOT NULL,
    taken_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, event_id)
)
-- Insert-only but for pruning: freeze early and cheaply, before a wraparound vacuum has to.
WITH (autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 1000000);

-- Pruning asks for old rows of low offsets. Both grow with the table, so a BRIN index finds them and costs the insert
-- nothing; a B-tree here would be paid by every event.
CREATE INDEX inbox_age ON inbox USING brin (taken_at, "offset") WITH (autosummarize = on);

-- The one queue: what waits, what is being asked, what is dead. Rows of a key are worked in order of seq.
CREATE TABLE pending (
    consumer     text        COLLATE "C" NOT NULL,
    key          bytea       NOT NULL,
    -- CACHE 1: with a larger cache two sessions would hand out causally ordered rows of a key in the wrong order.
    seq          bigint      GENERATED ALWAYS AS IDENTITY (CACHE 1),
    event_id     uuid        NOT NULL,
    topic        text        COLLATE "C" NOT NULL,
    partition    int         NOT NULL,
    "offset"     bigint      NOT NULL,
    -- The record's own topic and key. They differ from where it waits for timers, and for records without a key.
    record_topic text        COLLATE "C" NOT NULL,
    record_key   bytea,
    headers      bytea       NOT NULL,
    value        bytea       NOT NULL,
    call         bytea,
    epoch        int         NOT NULL DEFAULT 0,
    attempts     int         NOT NULL DEFAULT 0,
    due          timestamptz NOT NULL,
    leased_until timestamptz,
    claim        uuid,
    error        text,
    dead_at      timestamptz,
    PRIMARY KEY (consumer, key, seq),
    -- An attempt count that ran backwards would never use up its budget.
    CONSTRAINT pending_attempts_not_negative CHECK (attempts >= 0),
    -- The epoch is part of the provider's idempotency key; it only grows from 0.
    CONSTRAINT pending_epoch_not_negative CHECK (epoch >= 0),
    -- A lease without a claim could never be given back, a claim without a lease never expire.
    CONSTRAINT pending_claim_iff_leased CHECK ((claim IS NULL) = (leased_until IS NULL)),
    -- A dead letter that is also claimed would be worked on and redriven at once.
    CONSTRAINT pending_dead_not_claimed CHECK (dead_at IS NULL OR claim IS NULL)
)
-- Rows live for milliseconds and are updated on the way: room for HOT updates, and a vacuum that never waits for a
-- share of the table. No index on event_id: the inbox dedupes.
WITH (
    fillfactor = 45,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 10000
);

-- Claiming asks for what is due soonest; dead letters are not in its way.
-- `seq` makes the order total without a sort, which would look at everything that is due before taking a few.
CREATE INDEX pending_due ON pending (consumer, due, seq) WHERE dead_at IS NULL;

-- Reading dead letters asks for the oldest; there are few, so the index is small.
CREATE INDEX pending_dead ON pending (consumer, dead_at, seq) WHERE dead_at IS NOT NULL;

-- What must be published because its effect committed. Rows are deleted once all in-sync replicas have them.
-- A sequence may become visible out of order: read the oldest rows there are, never from a cursor.
CREATE TABLE outbox (
    -- CACHE 1, as above: rows that a common row lock ordered must be numbered in that order.
    seq        bigint      GENERATED ALWAYS AS IDENTITY (CACHE 1) PRIMARY KEY,
    -- ce_id, for whoever looks for an event here; the header is what counts.
    event_id   uuid,
    topic      text        COLLATE "C" NOT NULL,
    key        bytea,
    headers    bytea       NOT NULL,
    value      bytea       NOT NULL,
    -- The inbox is pruned only of what is older than every row here: a copy may still come from it.
    written_at timestamptz NOT NULL DEFAULT now()
)
WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 20000
);

-- Pruning asks for the oldest row. Times follow the numbers but for transactions that ran side by side, so a BRIN index
-- finds it, and costs the insert next to nothing.
CREATE INDEX outbox_age ON outbox USING brin (written_at) WITH (autosummarize = on);

-- Who does what only one may do, until when. The epoch tells an old holder from a new one.
CREATE TABLE leases (
    name       text        COLLATE "C" PRIMARY KEY,
    holder     uuid        NOT NULL,
    epoch      bigint      NOT NULL,
    expires_at timestamptz NOT NULL,
    -- Epochs grow from 1 with each change of holder; anything else could not be compared.
    CONSTRAINT leases_epoch_positive CHECK (epoch >= 1)
)
WITH (fillfactor = 20);

-- Any row set without tables of its own: lets a team start before it writes a migration.
CREATE TABLE rows (
    kind    text   COLLATE "C" NOT NULL,
    key     text   COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    body    jsonb  NOT NULL,
    PRIMARY KEY (kind, key),
    -- Versions start at 1 and grow by 1: an update names the one it read, so a lost update is seen.
    CONSTRAINT rows_version_positive CHECK (version >= 1)
)
WITH (fillfactor = 70);
