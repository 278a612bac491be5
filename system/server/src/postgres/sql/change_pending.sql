-- Locks the rows in order of key and seq, then deletes and updates them where they lie. Each row is in one of the two.
WITH changed AS MATERIALIZED (
    SELECT row.at, asked.*
    FROM unnest(
        $2::bytea[], $3::bigint[], $4::bool[], $5::bytea[], $6::int[], $7::int[], $8::bigint[], $9::text[],
        $10::uuid[], $11::bigint[], $12::bool[]
    ) AS asked (key, seq, gone, call, epoch, attempts, due_in_us, error, claim, lease_us, dead)
    CROSS JOIN LATERAL (
        SELECT p.ctid AS at
        FROM pending p
        WHERE p.consumer = $1 AND p.key = asked.key AND p.seq = asked.seq
        FOR NO KEY UPDATE
    ) AS row
),
deleted AS (
    DELETE FROM pending p
    USING changed
    WHERE changed.gone AND p.ctid = changed.at
    RETURNING 1
),
updated AS (
    UPDATE pending p
    SET call = changed.call,
        epoch = changed.epoch,
        attempts = changed.attempts,
        due = clock_timestamp() + changed.due_in_us * interval '1 microsecond',
        error = changed.error,
        claim = changed.claim,
        leased_until = clock_timestamp() + changed.lease_us * interval '1 microsecond',
        dead_at = CASE WHEN changed.dead THEN clock_timestamp() END
    FROM changed
    WHERE NOT changed.gone AND p.ctid = changed.at
    RETURNING 1
)
SELECT (SELECT count(*) FROM deleted) + (SELECT count(*) FROM updated) AS "count!"
