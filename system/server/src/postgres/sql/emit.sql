INSERT INTO outbox (event_id, topic, key, headers, value)
SELECT new.event_id, new.topic, new.key, new.headers, new.value
FROM unnest($1::uuid[], $2::text[], $3::bytea[], $4::bytea[], $5::bytea[])
    WITH ORDINALITY AS new (event_id, topic, key, headers, value, place)
ORDER BY new.place
