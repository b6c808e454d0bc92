-- Put scheduled jobs whose time has come into their queues, on Redis' clock. What cannot be read is refused there.
-- KEYS  1 the set of all RQ queues, then for each queue: RQ's scheduled registry, the queue
-- ARGV  1 prefix of RQ's job hashes  2 now, RQ's form  3 how many of each at most
--       4 RQ's set of rate limits and 5 prefix of each: no keys, as a user of before these may not touch them
-- Returns how many have left the registry, and how many of them wait for RQ to let them through a rate limit.
local count, limited, now = 0, 0, now_ms()

-- As RQ does with whatever is enqueued under a rate limit: it waits, and RQ lets it through.
local function waits_for_turn(id, job, key, concurrency, at_front)
  if key == '' or not tonumber(concurrency) then return false end
  if type(redis.pcall('SADD', ARGV[4], key)) == 'table' then return false end -- see above: then there is no limit
  local limit = ARGV[5] .. key
  redis.pcall('HSET', limit, 'concurrency', concurrency)
  -- In the order of their times, also of those that leave the registry together.
  local since = string.format('%.6f', now / 1000 + limited / 1e6)
  if type(redis.pcall('ZADD', limit .. ':rate_limited', since, id)) == 'table' then return false end
  redis.call('HSET', job, 'status', 'rate_limited', 'enqueue_at_front', at_front and 1 or 0)
  return true
end

for i = 2, #KEYS, 2 do
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[i], '-inf', now / 1000, 'LIMIT', 0, ARGV[3])) do
    local job = ARGV[1] .. id
    local front, front_again, ended_at, key, concurrency = unpack(fields_of(
      job, 'enqueue_at_front', 'enqueue_at_front_on_retry', 'ended_at', 'rate_limit_key', 'rate_limit_concurrency'))
    local at_front = front == '1' or (front_again == '1' and (ended_at or '') ~= '')
    if waits_for_turn(id, job, key or '', concurrency, at_front) then
      limited = limited + 1
    else
      redis.call('SADD', KEYS[1], KEYS[i + 1])
      redis.call(at_front and 'LPUSH' or 'RPUSH', KEYS[i + 1], id)
      if redis.call('TYPE', job).ok == 'hash' then
        redis.call('HSET', job, 'status', 'queued', 'enqueued_at', ARGV[2], 'queued_at_ms', now)
      end
    end
    redis.call('ZREM', KEYS[i], id) -- last, as in to_front
    count = count + 1
  end
end
return {count, limited}
