-- A batch is to end early. Whoever runs it sees to that.
-- KEYS  1 the batch
-- ARGV  1 when, Unix seconds
-- Returns the status that it had, or false where there is none.
local status = redis.call('HGET', KEYS[1], 'status')
if status == 'validating' or status == 'in_progress' then
  redis.call('HSET', KEYS[1], 'status', 'cancelling', 'cancelling_at', ARGV[1])
end
return status
