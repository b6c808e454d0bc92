-- Whoever runs a batch goes on with it, and says how far it is.
-- KEYS  1 the batches that are not over  2 who runs which  3 the batch
-- ARGV  1 the batch among all  2 who says so  3 how long it has it from now on, ms; 0: the batch is over
--       4 the status that it must have, '' for any  5.. fields and values
-- Returns its status, or why nothing was done: 'lost' where another runs it, 'gone' where it is not kept any more.
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then return 'lost' end
local status = redis.call('HGET', KEYS[3], 'status')
local is_as_said = ARGV[4] == '' or status == ARGV[4]
if not status or (ARGV[3] == '0' and is_as_said) then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('HDEL', KEYS[2], ARGV[1])
else
  redis.call('ZADD', KEYS[1], 'XX', now_ms() + ARGV[3], ARGV[1])
end
if not status then return 'gone' end
if is_as_said and ARGV[5] then redis.call('HSET', KEYS[3], unpack(ARGV, 5)) end
return redis.call('HGET', KEYS[3], 'status')
