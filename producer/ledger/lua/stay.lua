-- The requests of an owner that are open still.
-- KEYS  1 sorted set of the requests that are open
-- ARGV  1 for how long they count as open, ms  2.. their ids
local now = now_ms()
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', now + ARGV[1], ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
