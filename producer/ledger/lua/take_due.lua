-- Take jobs that have waited for longer than they may. Whoever has taken one ends it.
-- KEYS  1 takers  2 our list of taken jobs  3 the model's deadlines  4.. the model's queues
-- ARGV  1 our name  2 ttl of the list, s  3 prefix of RQ's job hashes  4 how many at most
-- Returns their ids.
local due = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now_ms(), 'LIMIT', 0, ARGV[4])
local taken = {}
for _, id in ipairs(due) do
  redis.call('ZREM', KEYS[3], id)
  -- A job that a worker has had before does not wait any more in that sense: its deadline was met.
  local started_at = fields_of(ARGV[3] .. id, 'started_at')[1] or ''
  local removed = 0
  for i = 4, #KEYS do
    if removed == 0 and started_at == '' then removed = redis.call('LREM', KEYS[i], 1, id) end
  end
  if removed > 0 then
    redis.call('RPUSH', KEYS[2], id)
    if redis.call('TYPE', ARGV[3] .. id).ok == 'hash' then redis.call('HSET', ARGV[3] .. id, 'taken_by', ARGV[1]) end
    taken[#taken + 1] = id
  end
end
if #taken > 0 then
  redis.call('SADD', KEYS[1], ARGV[1])
  redis.call('EXPIRE', KEYS[1], ARGV[2])
  redis.call('EXPIRE', KEYS[2], ARGV[2])
end
return taken
