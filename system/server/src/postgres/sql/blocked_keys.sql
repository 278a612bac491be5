SELECT asked.key AS "key!"
FROM unnest($2::bytea[]) AS asked (key)
CROSS JOIN LATERAL (
    SELECT 1
    FROM pending p
    WHERE p.consumer = $1 AND p.key = asked.key AND ($3 OR p.dead_at IS NULL)
    LIMIT 1
) AS blocked
