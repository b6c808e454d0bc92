-- Append a job's events, in order, once each, and only while the job is ours.
-- KEYS  1 events  2 result  3 cancel  4 waiters; for a worker that runs the job also 5 its list of taken jobs, 6 RQ hash;
--       7 the same hash, where it is time to look whether anybody waits for the job
-- ARGV  1 id of the event that precedes the batch  2 ttl, s  3 channel  4 result or ''  5 job id  6 our name
--       7.. for each event: id, type, data, mirror
-- Returns {ok | behind | fenced, id and data of the stream's last entry, 1 if somebody asks for the job's cancellation, or
-- nobody waits for it any more}.
local function before(a, b)
  local a1, a2 = string.match(a, '^(%d+)-(%d+)$')
  local b1, b2 = string.match(b, '^(%d+)-(%d+)$')
  a1, a2, b1, b2 = tonumber(a1), tonumber(a2), tonumber(b1), tonumber(b2)
  return a1 < b1 or (a1 == b1 and a2 < b2)
end

-- Whether nobody waits for the job any more, of one that ends then: see want.lua. While Redis was away nobody could say
-- that he does. So, when the time is first found to be over, whoever waits has as much of it again.
local function is_unwanted(job)
  local fields = fields_of(job, 'lease_ms', 'wanted_until_ms', 'lapsed_at_ms')
  local lease_ms, until_ms, lapsed_ms = tonumber(fields[1] or ''), tonumber(fields[2] or ''), tonumber(fields[3] or '')
  if not lease_ms then return false end
  local now = now_ms()
  if not until_ms then
    redis.call('HSET', job, 'wanted_until_ms', now + lease_ms)
  elseif now >= until_ms then
    if lapsed_ms then return now >= lapsed_ms + lease_ms end
    redis.call('HSET', job, 'lapsed_at_ms', now)
  end
  return false
end

local last, _, last_data = last_event(KEYS[1])
if not last then
  -- The contract gives this name to the job's stream: whatever else stands there is in the way of its end.
  if redis.call('TYPE', KEYS[1]).ok ~= 'stream' then redis.call('DEL', KEYS[1]) end
  last, last_data = '0-0', ''
end

-- Swept away, a worker must add nothing: its first event would claim the next worker's attempt, and its last would
-- end a job that waits in its queue again. Where nobody can tell, the job is ours: without its end a subscriber waits
-- for ever. A second end cannot come of it: the ids alone refuse that, below.
if KEYS[5] and is_ours(KEYS[5], KEYS[6], ARGV[5], ARGV[6]) == false then return {'fenced', last, last_data, 0} end

local first = 7
if last ~= ARGV[1] then
  first = nil
  -- Our own append, whose reply was lost? Then the stream ends inside our batch, with our own data.
  for i = 7, #ARGV, 4 do
    if ARGV[i] == last and ARGV[i + 2] == last_data then first = i + 4 end
  end
  if not first then
    if before(last, ARGV[1]) and redis.call('EXISTS', KEYS[2]) == 0 then return {'behind', last, last_data, 0} end
    return {'fenced', last, last_data, 0}
  end
end
for i = first, #ARGV, 4 do
  redis.call('XADD', KEYS[1], ARGV[i], 'type', ARGV[i + 1], 'data', ARGV[i + 2])
  redis.call('PUBLISH', ARGV[3], ARGV[i + 3])
  last = ARGV[i]
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
if ARGV[4] == '' then
  local is_over = redis.call('EXISTS', KEYS[3]) == 1 or (KEYS[7] and is_unwanted(KEYS[7]))
  return {'ok', last, '', is_over and 1 or 0}
end
redis.call('SET', KEYS[2], ARGV[4], 'EX', ARGV[2])
redis.call('DEL', KEYS[3])
tell_waiters(KEYS[4], ARGV[5], 60)
return {'ok', last, '', 0}
