-- Heads only, so that SKIP LOCKED cannot reorder a key: its follower is no head while the head is there, locked or not.
-- The time is a subquery, evaluated once, so that the index on due can use it.
WITH heads AS MATERIALIZED (
    SELECT p.ctid AS at
    FROM pending p
    WHERE p.consumer = $1
      AND p.dead_at IS NULL
      AND p.due <= (SELECT clock_timestamp())
      AND (p.leased_until IS NULL OR p.leased_until <= (SELECT clock_timestamp()))
      AND p.seq = (
          SELECT min(h.seq)
          FROM pending h
          WHERE h.consumer = p.consumer AND h.key = p.key AND ($5 OR h.dead_at IS NULL)
      )
    ORDER BY p.due, p.seq
    LIMIT $2
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE pending p
SET attempts = p.attempts + 1, claim = $3, leased_until = clock_timestamp() + $4::bigint * interval '1 microsecond'
FROM heads
WHERE p.ctid = heads.at
RETURNING
    p.key, p.seq, p.event_id, p.topic, p.partition, p."offset", p.record_topic, p.record_key, p.headers, p.value,
    p.call, p.epoch, p.attempts, p.due AS "due!: Moment", p.claim, p.error, p.dead_at AS "dead_at?: Moment"
