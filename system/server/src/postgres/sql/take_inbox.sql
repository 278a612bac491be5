INSERT INTO inbox (consumer, event_id, topic, partition, "offset")
SELECT $1, taken.event_id, taken.topic, taken.partition, taken."offset"
FROM unnest($2::uuid[], $3::text[], $4::int[], $5::bigint[]) AS taken (event_id, topic, partition, "offset")
ORDER BY taken.event_id
ON CONFLICT DO NOTHING
RETURNING event_id
