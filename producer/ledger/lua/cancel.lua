-- End a job that nobody runs, or ask the worker that holds it to end it: one look and one write.
-- KEYS  1 events  2 result  3 RQ hash  4 cancel  5 waiters  6 the model's deadlines
-- ARGV  1 job id  2 id of the last event known, '' for none  3 id of the terminal event
--       4 its data, which is the result  5 its mirror  6 channel  7 result_ttl_s  8 ttl of a request to cancel, s
--       9 now, RQ's form  10 prefix and 11 suffix of the lists of taken jobs  12 prefix of RQ's keys
--       13 prefix of our keys  14 prefix of our queues' names
-- Returns 'cancelled'; 'ended': it had ended; 'requested': a worker holds it; 'changed': it has newer events.
if has_ended(KEYS[1], KEYS[2]) then return 'ended' end
local origin, holder, runner = unpack(fields_of(KEYS[3], 'origin', 'taken_by', 'worker_name'))
for _, worker in ipairs({holder or '', runner or ''}) do
  if worker ~= '' and is_held(ARGV[10] .. worker .. ARGV[11], ARGV[1]) then
    redis.call('SET', KEYS[4], '1', 'EX', ARGV[8])
    return 'requested'
  end
end
if (last_event(KEYS[1]) or '') ~= ARGV[2] then return 'changed' end

local ttl_s = tonumber(ARGV[7])
-- Without an event, and still there: cleared for another run, it refuses ids below those of the run before.
if ARGV[2] == '' and redis.call('EXISTS', KEYS[1]) == 1 then redis.call('DEL', KEYS[1]) end
redis.call('XADD', KEYS[1], ARGV[3], 'type', 'cancelled', 'data', ARGV[4])
redis.call('EXPIRE', KEYS[1], ttl_s)
redis.call('SET', KEYS[2], ARGV[4], 'EX', ttl_s)
redis.call('DEL', KEYS[4])
redis.call('ZREM', KEYS[6], ARGV[1])
if origin then
  redis.call('LREM', ARGV[12] .. 'queue:' .. origin, 0, ARGV[1]) -- RQ lets it stand there twice
  local place = place_of(ARGV[13], ARGV[14], origin)
  if place then leave_line(place, ARGV[12]) end
  for _, registry in ipairs({'deferred:', 'scheduled:', 'failed:', 'finished:'}) do
    redis.call('ZREM', ARGV[12] .. registry .. origin, ARGV[1])
  end
  redis.call('HSET', KEYS[3], 'status', 'canceled', 'ended_at', ARGV[9], 'expires_at_ms', '')
  redis.call('EXPIRE', KEYS[3], ttl_s)
  local canceled = ARGV[12] .. 'canceled:' .. origin
  redis.call('ZADD', canceled, math.floor(now_ms() / 1000) + ttl_s, ARGV[1])
  redis.call('ZREMRANGEBYRANK', canceled, 0, -10001) -- RQ never cleans this registry
end
redis.call('PUBLISH', ARGV[6], ARGV[5])
tell_waiters(KEYS[5], ARGV[1], 60)
return 'cancelled'
