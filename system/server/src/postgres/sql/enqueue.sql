INSERT INTO pending (
    consumer, key, event_id, topic, partition, "offset", record_topic, record_key, headers, value, call, attempts,
    due, error, claim, leased_until, dead_at
)
SELECT
    $1, new.key, new.event_id, new.topic, new.partition, new."offset", new.record_topic, new.record_key, new.headers,
    new.value, new.call, new.attempts,
    clock_timestamp() + new.due_in_us * interval '1 microsecond',
    new.error,
    new.claim,
    clock_timestamp() + new.lease_us * interval '1 microsecond',
    CASE WHEN new.dead THEN clock_timestamp() END
FROM unnest(
    $2::bytea[], $3::uuid[], $4::text[], $5::int[], $6::bigint[], $7::text[], $8::bytea[], $9::bytea[], $10::bytea[],
    $11::bytea[], $12::int[], $13::bigint[], $14::text[], $15::uuid[], $16::bigint[], $17::bool[]
) WITH ORDINALITY AS new (
    key, event_id, topic, partition, "offset", record_topic, record_key, headers, value, call, attempts, due_in_us,
    error, claim, lease_us, dead, place
)
ORDER BY new.place
RETURNING seq
