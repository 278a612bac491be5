SELECT
    p.key AS "key!", p.seq AS "seq!", p.event_id AS "event_id!", p.topic AS "topic!", p.partition AS "partition!",
    p."offset" AS "offset!", p.record_topic AS "record_topic!", p.record_key, p.headers AS "headers!",
    p.value AS "value!", p.call, p.epoch AS "epoch!", p.attempts AS "attempts!", p.due AS "due!: Moment", p.claim,
    p.error, p.dead_at AS "dead_at?: Moment"
FROM unnest($2::bytea[]) AS asked (key)
CROSS JOIN LATERAL (
    SELECT *
    FROM pending p
    WHERE p.consumer = $1 AND p.key = asked.key AND ($4 OR p.dead_at IS NULL)
    ORDER BY p.seq
    LIMIT $3
    FOR NO KEY UPDATE
) AS p
