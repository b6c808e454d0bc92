"""The steps that must stand or fall together, as Lua scripts. Each opens with the glossary of its arguments.

They are sent with EVAL and not EVALSHA: one round trip always, also after a restart that forgot them. The
server keeps the compiled script by its text.
"""

SUBMIT = """
-- Enqueue a batch of jobs as RQ does: all that are new, or none if the model's queues would exceed the cap.
-- KEYS  1    the set of all RQ queues
--       2-4  the model's queues: high, normal, low
--       5..  for each job: its RQ hash, its events, its result
-- ARGV  1    max_queued, or -1 for no cap
--       2    which of KEYS the batch goes to: 2, 3 or 4
--       3..  for each job: id, TTL of the hash in seconds, n, and n hash fields and values
-- Returns for each job 1 (enqueued) or 0 (existed); or {-1, jobs queued now} when over the cap.
local function exists(key)
  return redis.call('EXISTS', KEYS[key], KEYS[key + 1], KEYS[key + 2]) > 0
end

local max_queued = tonumber(ARGV[1])
if max_queued >= 0 then
  local queued, new = 0, 0
  for key = 2, 4 do queued = queued + redis.call('LLEN', KEYS[key]) end
  for key = 5, #KEYS, 3 do if not exists(key) then new = new + 1 end end
  if new > 0 and queued + new > max_queued then return {-1, queued} end
end

local created, arg = {}, 3
local queue = KEYS[tonumber(ARGV[2])]
redis.call('SADD', KEYS[1], queue)
for key = 5, #KEYS, 3 do
  local job_id, ttl_s, n = ARGV[arg], ARGV[arg + 1], tonumber(ARGV[arg + 2])
  if exists(key) then
    created[#created + 1] = 0
  else
    redis.call('HSET', KEYS[key], unpack(ARGV, arg + 3, arg + 2 + n))
    redis.call('EXPIRE', KEYS[key], ttl_s)
    redis.call('RPUSH', queue, job_id)
    created[#created + 1] = 1
  end
  arg = arg + 3 + n
end
return created
"""

CANCEL_QUEUED = """
-- End a job that no worker runs: take it from where it waits, write its terminal event and its result.
-- KEYS  1 result  2 events  3 RQ hash  4 queue  5 deferred  6 scheduled  7 canceled (RQ's registries)
-- ARGV  1 job id  2 id of the last event known, '' for none  3 id of the terminal event
--       4 its data, which is the result  5 its mirror  6 channel  7 result_ttl_s  8 now, unix s  9 now, RQ's form
-- Returns 'cancelled'; 'ended': it had ended; 'changed': it has newer events; 'taken': a worker has it.
if redis.call('EXISTS', KEYS[1]) == 1 then return 'ended' end
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if (last and last[1] or '') ~= ARGV[2] then return 'changed' end

local removed = redis.call('LREM', KEYS[4], 1, ARGV[1])
  + redis.call('ZREM', KEYS[5], ARGV[1]) + redis.call('ZREM', KEYS[6], ARGV[1])
local job = redis.call('HMGET', KEYS[3], 'status', 'worker_name')
-- RQ's own cancel takes a job from its queue and writes no terminal event: this is the one that ends it.
local cancelled_through_rq = job[1] == 'canceled' and (not job[2] or job[2] == '')
if removed == 0 and not cancelled_through_rq then return 'taken' end

local ttl_s, now_s = tonumber(ARGV[7]), tonumber(ARGV[8])
redis.call('XADD', KEYS[2], ARGV[3], 'type', 'cancelled', 'data', ARGV[4])
redis.call('EXPIRE', KEYS[2], ttl_s)
redis.call('SET', KEYS[1], ARGV[4], 'EX', ttl_s)
redis.call('HSET', KEYS[3], 'status', 'canceled', 'ended_at', ARGV[9])
redis.call('EXPIRE', KEYS[3], ttl_s)
redis.call('ZADD', KEYS[7], now_s + ttl_s, ARGV[1])
redis.call('ZREMRANGEBYRANK', KEYS[7], 0, -10001) -- RQ never cleans this registry
redis.call('PUBLISH', ARGV[6], ARGV[5])
return 'cancelled'
"""
