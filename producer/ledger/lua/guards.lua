-- Prepended to every script: what several of them ask or do, in one way only.

local TERMINAL = {finished = true, failed = true, cancelled = true}

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Calls, and answers nil where another kind of key stands in place of ours. Every other error is raised.
local function unless_wrong_type(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then
    if not string.find(tostring(reply.err), 'WRONGTYPE', 1, true) then return redis.call(...) end
    return nil
  end
  return reply
end

local function field(entry, name)
  for i = 1, #entry[2], 2 do
    if entry[2][i] == name then return entry[2][i + 1] end
  end
end

-- Id, type and data of a stream's last entry; nothing where there is none.
local function last_event(events)
  local tail = unless_wrong_type('XREVRANGE', events, '+', '-', 'COUNT', 1)
  if tail and tail[1] then return tail[1][1], field(tail[1], 'type') or '', field(tail[1], 'data') or '' end
end

-- Whether the job has ended. The stream is the truth: a result beside a stream that goes on is no result.
local function has_ended(events, result)
  local id, kind = last_event(events)
  if id then return TERMINAL[kind] == true end
  return redis.call('EXISTS', result) == 1
end

-- Whether the job is in that list.
local function is_held(taken, job_id)
  return (unless_wrong_type('LPOS', taken, job_id) or false) ~= false
end

-- Fields of a hash; nothing where there is none.
local function fields_of(hash, ...)
  return unless_wrong_type('HMGET', hash, ...) or {}
end

-- What stays of a job that was deleted, for a day. No key of a script: a user of before it may not touch it.
-- taken: of any worker, whose key begins with our prefix.
local function deleted_mark(taken, job_id)
  return string.match(taken, '^(.-):{') .. ':{' .. job_id .. '}:deleted'
end

-- Whether a job is the worker's, by its list of taken jobs; nil where another kind of key stands in place of list or
-- hash, and nobody can tell. A Redis that came back empty knows neither: nobody else can run it. One that was deleted
-- is nobody's.
local function is_ours(taken, job, job_id, worker)
  local place = unless_wrong_type('LPOS', taken, job_id)
  if place ~= false then return place and true end
  local known = unless_wrong_type('HMGET', job, 'status', 'worker_name')
  if not known then return nil end
  if not known[1] then return redis.pcall('EXISTS', deleted_mark(taken, job_id)) ~= 1 end
  return known[1] == 'started' and known[2] == worker
end

-- How many bytes some fields of a hash have, and their values; no values where it is more than that.
local function fields_within(max_bytes, hash, names)
  local bytes = 0
  for _, name in ipairs(names) do bytes = bytes + redis.call('HSTRLEN', hash, name) end
  if bytes > max_bytes then return bytes, {} end
  return bytes, redis.call('HMGET', hash, unpack(names))
end

-- Whom a producer is to wake at the job's end: each has registered the stream that its blocked read includes.
local function tell_waiters(waiters, job_id, ttl_s)
  for _, wake in ipairs(unless_wrong_type('SMEMBERS', waiters) or {}) do
    redis.call('XADD', wake, 'MAXLEN', '~', 1000, '*', 'ended', job_id)
    redis.call('EXPIRE', wake, ttl_s)
  end
  redis.call('DEL', waiters)
end

-- A worker's places in the ring, whatever the connections.
local function leave_ring(ring, worker)
  redis.call('ZREMRANGEBYLEX', ring, '[' .. worker .. ' ', '(' .. worker .. '!')
end

-- One death more of those in whose hands the job was. Anybody can write the field: what is no number becomes one.
local function count_death(job, dead)
  if type(redis.pcall('HINCRBY', job, 'deaths', 1)) == 'table' then redis.call('HSET', job, 'deaths', 1) end
  redis.call('HSET', job, 'lost_by', dead)
end

-- From the list of who had it to the front of its queue, whatever RQ believes of it by now. In that order: a script
-- that fails undoes nothing, and a job that is in both is better than one that is in neither.
local function to_front(taken, queue, job_id)
  redis.call('LPUSH', queue, job_id)
  redis.call('LREM', taken, 1, job_id)
end

-- What RQ is to believe of a job that is back in its queue.
local function show_queued(job, failed, job_id)
  redis.call('HSET', job, 'status', 'queued', 'worker_name', '', 'taken_by', '')
  unless_wrong_type('ZREM', failed, job_id)
end
