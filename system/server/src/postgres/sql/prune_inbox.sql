-- Nothing older than the outbox row with the smallest number was written but by transactions that ran beside its own,
-- so looking below its time finds the oldest, and the index on written_at keeps that short.
-- `IS NOT DISTINCT FROM` keeps the primary key out of it, which would read all that the consumer has ever taken.
WITH outbox_oldest AS MATERIALIZED (
    SELECT min(o.written_at) AS written_at
    FROM outbox o
    WHERE o.written_at <= (SELECT first.written_at FROM outbox first ORDER BY first.seq LIMIT 1)
),
old AS MATERIALIZED (
    SELECT row.at
    FROM unnest($2::text[], $3::int[], $4::bigint[]) AS log (topic, partition, start)
    CROSS JOIN LATERAL (
        SELECT i.ctid AS at
        FROM inbox i
        WHERE i.consumer IS NOT DISTINCT FROM $1
          AND i.topic = log.topic
          AND i.partition = log.partition
          AND i."offset" < log.start
          AND i.taken_at < coalesce((SELECT written_at FROM outbox_oldest), 'infinity')
        LIMIT $5
    ) AS row
    LIMIT $5
)
DELETE FROM inbox i USING old WHERE i.ctid = old.at
