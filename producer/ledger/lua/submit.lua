-- Enqueue a batch of jobs as RQ does: all that are new, or none if the model's queues would exceed the cap, or if an
-- id stands for another request already.
-- KEYS  1    the set of all RQ queues
--       2-4  the queues of the model, or of the group's jobs for it: high, normal, low
--       5    the model's deadlines
--       6..  for each job: its RQ hash, events, result, cancel, RQ's results, waiters
-- ARGV  1    max_queued, or -1 for no cap
--       2    which of KEYS the batch goes to: 2, 3 or 4
--       3    how long a job may wait in its queue, ms
--       4    the group, as in its queues' names, '' for none; 5 its line's turns and 6 its bell, which are no KEYS: a user
--            of before there were groups may not touch them
--       7    the queue's RQ registries of ended jobs: how many follow, and their keys
--       ..   for each job: id, digest of its request, model's normal queue, TTL of the hash in s, n, and n hash
--            fields and values
-- Returns for each job 1 (enqueued) or 0 (it existed); or {-1, jobs queued now} when over the cap; or
-- {-2, place in the batch} when that id is another job's.
local PER_JOB = 6
local max_queued, queue, wait_ms = tonumber(ARGV[1]), KEYS[tonumber(ARGV[2])], tonumber(ARGV[3])
local registries, arg = {}, 8 + tonumber(ARGV[7])
for i = 8, arg - 1 do registries[#registries + 1] = ARGV[i] end

local function exists(key)
  return redis.call('EXISTS', KEYS[key], KEYS[key + 1], KEYS[key + 2]) > 0
end

-- The same request for the same model, by whatever priority and group. A hash that has expired cannot tell.
local function is_same(hash, digest, home)
  local origin, stored = unpack(fields_of(hash, 'origin', 'request_digest'))
  if not origin then return true end
  if string.sub(origin, 1, #home) ~= home then return false end
  local priority = string.match(string.sub(origin, #home + 1), '^[^@]*')
  return (priority == '' or priority == '.high' or priority == '.low') and (not stored or stored == digest)
end

local jobs, new = {}, 0
for key = 6, #KEYS, PER_JOB do
  local job = {id = ARGV[arg], digest = ARGV[arg + 1], ttl_s = ARGV[arg + 3], first = arg + 5, n = tonumber(ARGV[arg + 4])}
  job.exists = exists(key)
  if job.exists and not is_same(KEYS[key], job.digest, ARGV[arg + 2]) then return {-2, #jobs + 1} end
  if not job.exists then new = new + 1 end
  jobs[#jobs + 1], arg = job, job.first + job.n
end
if max_queued >= 0 and new > 0 then
  local queued = 0
  for key = 2, 4 do queued = queued + redis.call('LLEN', KEYS[key]) end
  if queued + new > max_queued then return {-1, queued} end
end

local created, now = {}, now_ms()
redis.call('SADD', KEYS[1], queue)
for place, job in ipairs(jobs) do
  local key = 6 + (place - 1) * PER_JOB
  if job.exists then
    created[place] = 0
  else
    -- Of an earlier life of the id, nothing reaches this one.
    redis.call('DEL', KEYS[key + 3], KEYS[key + 4], KEYS[key + 5])
    for _, registry in ipairs(registries) do redis.call('ZREM', registry, job.id) end
    redis.call('HSET', KEYS[key], unpack(ARGV, job.first, job.first + job.n - 1))
    redis.call('HSET', KEYS[key], 'request_digest', job.digest, 'queued_at_ms', now, 'expires_at_ms', now + wait_ms)
    redis.call('EXPIRE', KEYS[key], job.ttl_s)
    redis.call('RPUSH', queue, job.id)
    redis.call('ZADD', KEYS[5], now + wait_ms, job.id)
    created[place] = 1
  end
end
if new > 0 and ARGV[4] ~= '' then line_up(ARGV[5], ARGV[6], ARGV[4]) end
-- As long as the longest wait: a job that may wait for less must not shorten it.
local keep_ms = wait_ms + 86400000
if redis.call('PTTL', KEYS[5]) < keep_ms then redis.call('PEXPIRE', KEYS[5], keep_ms) end
return created
