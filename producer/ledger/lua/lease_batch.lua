-- A gateway takes on the batch that nobody has had for the longest time.
-- KEYS  1 those that are not over, by the ms on Redis' clock until which somebody has them  2 who runs which
-- ARGV  1 how long it has it, ms  2 what it has drawn for it
-- Returns the batch, or false where somebody has each.
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_ms(), 'LIMIT', 0, 1)[1]
if not due then return false end
redis.call('HSET', KEYS[2], due, ARGV[2])
redis.call('ZADD', KEYS[1], now_ms() + ARGV[1], due)
return due
