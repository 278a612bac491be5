-- A lease that is not granted is written as it stands: DO UPDATE … WHERE would return no row to tell who holds it.
INSERT INTO leases AS held (name, holder, epoch, expires_at)
VALUES ($1, $2, 1, clock_timestamp() + $3::bigint * interval '1 microsecond')
ON CONFLICT (name) DO UPDATE SET (holder, epoch, expires_at) = (
    SELECT
        CASE WHEN free THEN excluded.holder ELSE held.holder END,
        CASE WHEN free AND held.holder <> excluded.holder THEN held.epoch + 1 ELSE held.epoch END,
        CASE WHEN free THEN clock_timestamp() + $3::bigint * interval '1 microsecond' ELSE held.expires_at END
    FROM (SELECT held.holder = excluded.holder OR held.expires_at <= clock_timestamp() AS free) AS lease
)
RETURNING holder, epoch, expires_at AS "expires_at!: Moment"
