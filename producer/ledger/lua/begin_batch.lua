-- A batch begins: it is due for whichever gateway comes first. Its input is kept until it is over.
-- KEYS  1 the owner's batches, by the ms on Redis' clock until which they are kept  2 the batch
--       3 all that are not over  4 the owner's files  5 their sizes  6 the input  7 its parts
-- ARGV  1 its id  2 the batch among all  3 what is to be known of it  4 how long it is kept, ms
--       5 batches that an owner may have  6 id of the input  7 how long that is kept at least, ms
-- Returns 'ok', or why nothing was done: 'no_file', 'too_many'.
local now, ttl, input_ttl = now_ms(), tonumber(ARGV[4]), tonumber(ARGV[7])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('EXISTS', KEYS[2]) == 1 then return 'ok' end -- said again: its reply was lost
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[5]) then return 'too_many' end
if redis.call('HEXISTS', KEYS[6], 'record') == 0 or redis.call('EXISTS', KEYS[7]) == 0 then return 'no_file' end
if redis.call('PTTL', KEYS[7]) < input_ttl then
  redis.call('ZADD', KEYS[4], now + input_ttl, ARGV[6])
  keep_file({KEYS[4], KEYS[5], KEYS[6], KEYS[7]}, input_ttl)
end
redis.call('HSET', KEYS[2], 'record', ARGV[3], 'status', 'validating')
redis.call('PEXPIRE', KEYS[2], ttl)
redis.call('ZADD', KEYS[1], now + ttl, ARGV[1])
if redis.call('PTTL', KEYS[1]) < ttl then redis.call('PEXPIRE', KEYS[1], ttl) end
redis.call('ZADD', KEYS[3], now, ARGV[2])
return 'ok'
