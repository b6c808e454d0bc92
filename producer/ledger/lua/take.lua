-- Take the next job of the highest priority. No moment exists in which a job is in no list.
-- KEYS  1 takers  2 our list of taken jobs  3 the model's deadlines  4.. queues in the order of their priority
-- ARGV  1 our name  2 ttl of the list, s  3 RQ's key of suspension  4 prefix of RQ's job hashes
--       5 prefix and 6 suffix of the lists of taken jobs  7 bytes that a job may have  8 longest job id
--       9 prefix of our keys  10 for a job of some of our queues alone: prefix of RQ's queues, else ''
--       11 how many fields, and their names; then the ids in our list that we know of
-- Returns {id, now in ms, whether it has a stream, bytes of its fields, {values}} of a job that is now ours (no values
-- where it has no hash, or is too large); or nothing; or 'suspended'; or {'', its length}: what is no job id was dropped.
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
  local holder, status = unpack(fields_of(ARGV[4] .. id, 'taken_by', 'status'))
  if holder and holder ~= '' and holder ~= ARGV[1] and is_held(ARGV[5] .. holder .. ARGV[6], id) then return true end
  local own = ARGV[9] .. ':{' .. id .. '}:'
  return RQ_ENDED[status] == true and has_ended(own .. 'events', own .. 'result')
end

-- What is in our list unknown to us may have come from any of our queues.
local function is_asked_for(id)
  if ARGV[10] == '' then return true end
  local queue = ARGV[10] .. (fields_of(ARGV[4] .. id, 'origin')[1] or '')
  for i = 4, #KEYS do
    if KEYS[i] == queue then return true end
  end
  return false
end

local function next_id()
  for _, left in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do
    if not known[left] and is_asked_for(left) then return left end -- taken before, but the answer did not reach us
    mine[left] = true
  end
  for i = 4, #KEYS do
    for _ = 1, 100 do
      local id = redis.call('LMOVE', KEYS[i], KEYS[2], 'LEFT', 'RIGHT')
      if not id then break end
      if mine[id] or is_stale(id) then
        redis.call('LREM', KEYS[2], -1, id)
      else
        return id
      end
    end
  end
end

local id = next_id()
if not id then return false end
if not is_job_id(id) then
  redis.call('LREM', KEYS[2], 0, id)
  return {'', #id}
end
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[2])
redis.call('ZREM', KEYS[3], id)
local job = ARGV[4] .. id
local has_stream = redis.call('EXISTS', ARGV[9] .. ':{' .. id .. '}:events')
if redis.call('TYPE', job).ok ~= 'hash' then return {id, now_ms(), has_stream, 0, {}} end
redis.call('HSET', job, 'taken_by', ARGV[1])
return {id, now_ms(), has_stream, fields_within(tonumber(ARGV[7]), job, names)}
