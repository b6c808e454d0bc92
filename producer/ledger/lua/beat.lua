-- Say that a worker is alive, and see what there is to be done.
-- KEYS  1 deadlines of the workers' beats  2 the model's ring  3 the worker's record  4 the model's deadlines
--       5 all workers of RQ  6.. RQ's workers of each queue, then RQ's scheduled registry of each
-- ARGV  1 name and model  2 ttl, ms  3 our entry in the ring  4 name  5 how many queues
--       6 ttl of ring and beats, s  7 what stands before a name in its channel for RQ's commands
--       8 queues of groups that have scheduled jobs  9.. fields and values of the record, those that have changed
-- Returns {now in ms, 1 if we are the first of the ring, how many are in it, {the entries after ours}, {1 for each of
-- them who hears RQ's commands, else 0; none, where we may not ask}, {names and models of those whose beat is overdue},
-- 1 if jobs wait for longer than they may, 1 if jobs are scheduled, 1 if Redis had forgotten the worker}. Of the last
-- three, the first two are looked at by the first of the ring alone.
local now, queues = now_ms(), tonumber(ARGV[5])
-- By a Redis that came back empty, or by RQ's upkeep once the record had expired. What RQ has written of a job since
-- makes a record of a few fields again: a worker is known by its birth.
local is_forgotten = redis.call('HEXISTS', KEYS[3], 'birth') == 0
redis.call('HSET', KEYS[3], unpack(ARGV, 9))
redis.call('PEXPIRE', KEYS[3], ARGV[2])
if is_forgotten then
  for i = 5, 5 + queues do redis.call('SADD', KEYS[i], KEYS[3]) end
end
if redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1]) == 1 then redis.call('EXPIRE', KEYS[1], ARGV[6]) end

local function from_us() return redis.call('ZRANGEBYLEX', KEYS[2], '[' .. ARGV[3], '+', 'LIMIT', 0, 3) end
local onward = from_us()
if onward[1] ~= ARGV[3] then
  leave_ring(KEYS[2], ARGV[4]) -- by whichever entry: we may not know of one, whose beat's answer was lost
  redis.call('ZADD', KEYS[2], 0, ARGV[3])
  redis.call('EXPIRE', KEYS[2], ARGV[6])
  onward = from_us()
end
local start = redis.call('ZRANGE', KEYS[2], 0, 1)
local after, seen = {}, {[ARGV[3]] = true}
for _, entries in ipairs({onward, start}) do -- it is a ring: after the last comes the first
  for _, entry in ipairs(entries) do
    if not seen[entry] and #after < 2 then after[#after + 1] = entry end
    seen[entry] = true
  end
end

local channels, hear = {}, {}
for i, entry in ipairs(after) do channels[i] = ARGV[7] .. entry:gsub(' %S+ %S+$', '') end
local counts = #after > 0 and redis.pcall('PUBSUB', 'NUMSUB', unpack(channels)) or {}
for i = 2, #counts, 2 do hear[i / 2] = math.min(counts[i], 1) end

local overdue = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 100)
local is_first, late, scheduled = start[1] == ARGV[3], 0, 0
if is_first then
  late = #redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now, 'LIMIT', 0, 1)
  scheduled = redis.call('EXISTS', unpack(KEYS, 6 + queues))
    + #redis.call('ZRANGEBYSCORE', ARGV[8], '-inf', now / 1000, 'LIMIT', 0, 1)
end
return {now, is_first and 1 or 0, redis.call('ZCARD', KEYS[2]), after, hear, overdue, late, scheduled > 0 and 1 or 0,
  is_forgotten and 1 or 0}
