SELECT seq, topic, key, headers, value FROM outbox ORDER BY seq LIMIT $1
