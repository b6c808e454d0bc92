-- Put scheduled jobs whose time has come into their queues, on Redis' clock. What cannot be read is refused there.
-- KEYS  1 the set of all RQ queues, then for each queue: RQ's scheduled registry, the queue
-- ARGV  1 prefix of RQ's job hashes  2 now, RQ's form  3 how many of each at most, and of those of all groups
--       4 RQ's set of rate limits and 5 prefix of each: no keys, as a user of before these may not touch them
--       6 queues of groups that have scheduled jobs  7 prefix of our keys  8 prefix of our queues' names
--       9 prefix of RQ's keys
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

local function start(registry, queue, most)
  local due = redis.call('ZRANGEBYSCORE', registry, '-inf', now / 1000, 'LIMIT', 0, most)
  for _, id in ipairs(due) do
    local job = ARGV[1] .. id
    local front, front_again, ended_at, key, concurrency = unpack(fields_of(
      job, 'enqueue_at_front', 'enqueue_at_front_on_retry', 'ended_at', 'rate_limit_key', 'rate_limit_concurrency'))
    local at_front = front == '1' or (front_again == '1' and (ended_at or '') ~= '')
    if waits_for_turn(id, job, key or '', concurrency, at_front) then
      limited = limited + 1
    else
      redis.call('SADD', KEYS[1], queue)
      redis.call(at_front and 'LPUSH' or 'RPUSH', queue, id)
      if redis.call('TYPE', job).ok == 'hash' then
        redis.call('HSET', job, 'status', 'queued', 'enqueued_at', ARGV[2], 'queued_at_ms', now)
      end
    end
    redis.call('ZREM', registry, id) -- last, as in to_front
    count = count + 1
  end
  return #due
end

for i = 2, #KEYS, 2 do start(KEYS[i], KEYS[i + 1], ARGV[3]) end
local left = tonumber(ARGV[3])
for _, name in ipairs(redis.call('ZRANGEBYSCORE', ARGV[6], '-inf', now / 1000, 'LIMIT', 0, left)) do
  local place = place_of(ARGV[7], ARGV[8], name)
  if place and place.group ~= '' and left > 0 then
    left = left - start(ARGV[9] .. 'scheduled:' .. name, ARGV[9] .. 'queue:' .. name, left)
    look_after(place, ARGV[9])
  end
end
return {count, limited}
