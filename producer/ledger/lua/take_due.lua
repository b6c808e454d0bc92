-- Take jobs that have waited for longer than they may. Whoever has taken one ends it.
-- KEYS  1 takers  2 our list of taken jobs  3 the model's deadlines  4.. the model's queues
-- ARGV  1 our name  2 ttl of the list, s  3 prefix of RQ's job hashes  4 how many at most
--       5 prefix of RQ's queues
-- Returns their ids.
local due = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now_ms(), 'LIMIT', 0, ARGV[4])
local taken = {}

local function queue_of(id)
  local own = ARGV[5] .. (fields_of(ARGV[3] .. id, 'origin')[1] or '')
  for i = 4, #KEYS do
    if string.sub(own, 1, #KEYS[i] + 1) == KEYS[i] .. '@' and is_held(own, id) then return own end
  end
  for i = 4, #KEYS do
    if is_held(KEYS[i], id) then return KEYS[i] end
  end
end

for _, id in ipairs(due) do
  -- A job that a worker has had before does not wait any more in that sense: its deadline was met.
  local started_at = fields_of(ARGV[3] .. id, 'started_at')[1] or ''
  local queue = started_at == '' and queue_of(id)
  if queue then
    redis.call('RPUSH', KEYS[2], id) -- first, as in to_front
    redis.call('LREM', queue, 1, id)
    if redis.call('TYPE', ARGV[3] .. id).ok == 'hash' then redis.call('HSET', ARGV[3] .. id, 'taken_by', ARGV[1]) end
    taken[#taken + 1] = id
  end
  redis.call('ZREM', KEYS[3], id)
end
if #taken > 0 then
  redis.call('SADD', KEYS[1], ARGV[1])
  redis.call('EXPIRE', KEYS[1], ARGV[2])
  redis.call('EXPIRE', KEYS[2], ARGV[2])
end
return taken
