-- Take the next job of the highest priority, from the group whose turn it is. No moment exists in which a job is in no
-- list.
-- KEYS  1 takers  2 our list of taken jobs  3 the model's deadlines  4 the groups' bell  5 the jobs that run
--       6.. for each priority, in their order: the queue, the turns of its groups; of high alone, or of high and
--       normal, where a running job is to make way for one of these
-- ARGV  1 our name  2 ttl of the list, s  3 RQ's key of suspension  4 prefix of RQ's keys
--       5 prefix and 6 suffix of the lists of taken jobs  7 bytes that a job may have  8 longest job id
--       9 prefix of our keys  10 how many jobs of a group may run at a time, '' for any
--       11 how many fields, and their names; then the ids in our list that we know of
-- Returns {id, now in ms, whether it has a stream, bytes of its fields, {values}} of a job that is now ours (no values
-- where it has no hash, or is too large); or nothing; 'suspended'; 'limited': jobs without a group wait, and as many
-- run as may; or {'', its length}: what is no job id was dropped.
if redis.call('EXISTS', ARGV[3]) == 1 then return 'suspended' end
local known, mine, names = {}, {}, {}
for i = 12, 11 + ARGV[11] do names[#names + 1] = ARGV[i] end
for i = 12 + ARGV[11], #ARGV do known[ARGV[i]] = true end

local function is_job_id(id)
  return id ~= '' and #id <= tonumber(ARGV[8]) and not string.find(id, '[\128-\255]')
end

-- RQ lets a job stand in its queue twice. It has been taken where it is in somebody's list, and it is over where it
-- has ended and nobody has enqueued it since, which RQ's status would say: this entry is none then.
local RQ_ENDED = {finished = true, failed = true, stopped = true, canceled = true}
local function is_stale(id)
  if not is_job_id(id) then return false end
  local holder, status = unpack(fields_of(ARGV[4] .. 'job:' .. id, 'taken_by', 'status'))
  if holder and holder ~= '' and holder ~= ARGV[1] and is_held(ARGV[5] .. holder .. ARGV[6], id) then return true end
  local own = ARGV[9] .. ':{' .. id .. '}:'
  return RQ_ENDED[status] == true and has_ended(own .. 'events', own .. 'result')
end

local limit, at_limit = tonumber(ARGV[10]), {}
local function is_at_limit(group)
  if limit and at_limit[group] == nil then
    at_limit[group] = runs_at_limit(KEYS[5], group, limit, ARGV[4], ARGV[5], ARGV[6])
  end
  return at_limit[group]
end

-- The group whose turn it is, and its queue. One that is at its limit loses its turn, so that nobody comes upon it
-- again: whoever lets go of a job of it lines it up.
local function next_in_turn(queue, turns)
  local group = redis.call('ZRANGE', turns, 0, 0)[1]
  if not group then return '', queue, true end
  if not at_limit[''] and not redis.call('ZSCORE', turns, '') and redis.call('EXISTS', queue) == 1 then
    redis.call('ZADD', turns, behind_all(turns), '')
  end
  return group, group == '' and queue or queue .. '@' .. group, false
end

-- What stands in place of one group's queue keeps no other from its turn.
local function first_of(group, line)
  if group == '' then return redis.call('LMOVE', line, KEYS[2], 'LEFT', 'RIGHT') end
  return unless_wrong_type('LMOVE', line, KEYS[2], 'LEFT', 'RIGHT')
end

-- A hundred entries that are none are passed over at a time: Redis serves nobody else meanwhile.
local function next_of(queue, turns)
  for _ = 1, 100 do
    local group, line, is_alone = next_in_turn(queue, turns)
    local id = not is_at_limit(group) and first_of(group, line)
    if id and (mine[id] or is_stale(id)) then
      redis.call('LREM', KEYS[2], -1, id)
    elseif id then
      if not is_alone and redis.call('EXISTS', line) == 1 then
        redis.call('ZADD', turns, behind_all(turns), group)
      elseif not is_alone then
        redis.call('ZREM', turns, group)
      end
      return id, group
    elseif is_alone then
      return
    else
      redis.call('ZREM', turns, group)
    end
  end
end

local LINES = (#KEYS - 5) / 2

-- What is in our list unknown to us may have come from any of our queues.
local function is_asked_for(id)
  if LINES == 3 then return true end
  local queue = ARGV[4] .. 'queue:' .. (fields_of(ARGV[4] .. 'job:' .. id, 'origin')[1] or '')
  for i = 6, #KEYS, 2 do
    if queue == KEYS[i] or string.sub(queue, 1, #KEYS[i] + 1) == KEYS[i] .. '@' then return true end
  end
  return false
end

local function next_id()
  for _, left in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do
    if not known[left] and is_asked_for(left) then return left end -- taken before, but the answer did not reach us
    mine[left] = true
  end
  for i = 6, #KEYS, 2 do
    local id, group = next_of(KEYS[i], KEYS[i + 1])
    if id then return id, group end
  end
end

-- Why there is none.
local function nothing()
  local queues, turns = {}, {}
  for i = 6, #KEYS, 2 do
    queues[#queues + 1], turns[#turns + 1] = KEYS[i], KEYS[i + 1]
  end
  if redis.call('EXISTS', unpack(turns)) == 0 then
    for i, bell in ipairs(bells_of(KEYS[4])) do
      if LINES == 3 or LINES == i then redis.call('DEL', bell) end
    end
  end
  return at_limit[''] and redis.call('EXISTS', unpack(queues)) > 0 and 'limited'
end

local id, group = next_id()
if not id then return nothing() end
if not is_job_id(id) then
  redis.call('LREM', KEYS[2], 0, id)
  return {'', #id}
end
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[2])
redis.call('ZREM', KEYS[3], id)
if group and (group ~= '' or limit) then
  redis.call('ZADD', KEYS[5], 0, group .. ' ' .. id)
  redis.call('EXPIRE', KEYS[5], ARGV[2])
end
local job = ARGV[4] .. 'job:' .. id
local has_stream = redis.call('EXISTS', ARGV[9] .. ':{' .. id .. '}:events')
if redis.call('TYPE', job).ok ~= 'hash' then return {id, now_ms(), has_stream, 0, {}} end
redis.call('HSET', job, 'taken_by', ARGV[1])
return {id, now_ms(), has_stream, fields_within(tonumber(ARGV[7]), job, names)}
