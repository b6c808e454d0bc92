-- Put scheduled jobs whose time has come into their queues, on Redis' clock. What cannot be read is refused there.
-- KEYS  1 the set of all RQ queues, then for each queue: RQ's scheduled registry, the queue
-- ARGV  1 prefix of RQ's job hashes  2 now, RQ's form  3 how many of each at most
-- Returns how many.
local count, now = 0, now_ms()
for i = 2, #KEYS, 2 do
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[i], '-inf', now / 1000, 'LIMIT', 0, ARGV[3])) do
    redis.call('ZREM', KEYS[i], id)
    local job = ARGV[1] .. id
    local at_front = fields_of(job, 'enqueue_at_front')[1]
    if redis.call('TYPE', job).ok == 'hash' then
      redis.call('HSET', job, 'status', 'queued', 'enqueued_at', ARGV[2], 'queued_at_ms', now)
    end
    redis.call('SADD', KEYS[1], KEYS[i + 1])
    redis.call(at_front == '1' and 'LPUSH' or 'RPUSH', KEYS[i + 1], id)
    count = count + 1
  end
end
return count
