-- Its rows are those of one consumer, found by the primary key, whichever side drives the join.
UPDATE positions p
SET next = asked.next
FROM unnest($2::text[], $3::int[], $4::bigint[]) AS asked (topic, partition, next)
WHERE p.consumer = $1 AND p.topic = asked.topic AND p.partition = asked.partition
