SELECT
    p.key, p.seq, p.event_id, p.topic, p.partition, p."offset", p.record_topic, p.record_key, p.headers, p.value,
    p.call, p.epoch, p.attempts, p.due AS "due!: Moment", p.claim, p.error, p.dead_at AS "dead_at?: Moment"
FROM pending p
WHERE p.consumer = $1 AND p.dead_at IS NOT NULL
ORDER BY p.dead_at, p.seq
LIMIT $2
