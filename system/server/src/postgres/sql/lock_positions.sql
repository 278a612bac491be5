-- LATERAL fixes the plan: the partitions asked for in the order of the arrays, each by the primary key.
SELECT at.topic AS "topic!", at.partition AS "partition!", at.next AS "next!"
FROM unnest($2::text[], $3::int[]) AS asked (topic, partition)
CROSS JOIN LATERAL (
    SELECT p.topic, p.partition, p.next
    FROM positions p
    WHERE p.consumer = $1 AND p.topic = asked.topic AND p.partition = asked.partition
    FOR NO KEY UPDATE
) AS at
