-- Look after queues of groups: jobs that RQ has put there without a word here, and what is left of groups that are idle.
-- KEYS  1 the set of all RQ queues
-- ARGV  1 prefix of our keys  2 prefix of our queues' names  3 prefix of RQ's keys  4.. the queues
-- Returns those of them in which RQ was interrupted: jobs whose dependencies have ended are to be put into them.
local rq, now, ready = ARGV[3], math.floor(now_ms() / 1000), {}
local STATES = {'deferred:', 'scheduled:', 'ready:', 'wip:', 'finished:', 'failed:', 'canceled:'}

-- Entries of jobs that are gone: nobody else cleans these registries.
local function drop_gone(registry)
  for _, entry in ipairs(unless_wrong_type('ZRANGE', registry, 0, 19) or {}) do
    if redis.call('EXISTS', rq .. 'job:' .. string.match(entry, '^[^:]*')) == 0 then redis.call('ZREM', registry, entry) end
  end
end

for i = 4, #ARGV do
  local queue = ARGV[i]
  local place, left = place_of(ARGV[1], ARGV[2], queue), {rq .. 'queue:' .. queue}
  for _, state in ipairs(STATES) do left[#left + 1] = rq .. state .. queue end
  for _, state in ipairs({'finished:', 'failed:'}) do
    unless_wrong_type('ZREMRANGEBYSCORE', rq .. state .. queue, 0, now) -- as RQ does
  end
  drop_gone(rq .. 'wip:' .. queue)
  drop_gone(rq .. 'canceled:' .. queue)
  look_after(place, rq)
  if redis.call('EXISTS', rq .. 'ready:' .. queue) == 1 then ready[#ready + 1] = queue end
  if redis.call('EXISTS', unpack(left)) == 0 then redis.call('SREM', KEYS[1], rq .. 'queue:' .. queue) end
end
return ready
