INSERT INTO positions (consumer, topic, partition, next)
SELECT $1, asked.topic, asked.partition, asked.next
FROM unnest($2::text[], $3::int[], $4::bigint[]) AS asked (topic, partition, next)
ORDER BY asked.topic COLLATE "C", asked.partition
ON CONFLICT DO NOTHING
